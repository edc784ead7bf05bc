//! What a told run leaves in the share, in words: for tests of single scenarios.

use polder_ledger::{ROOT_NID, Rows};
use polder_types::{Content, Nid};

use crate::disk::{is_zeros, number_of, token_of};
use crate::ghost::listing_of_share;
use crate::service::Service;

/// The share's tree, one node a line in the order of paths: `a=3 #2` is the file `a` with the third content that users
/// wrote, and the node with the number 2; `d/ #4` a directory, `l> #5` a symlink. At the end `gone #7`, for each node that
/// was deleted.
pub fn tree_of(service: &Service) -> Vec<String> {
    let (Ok(listing), nodes) = (listing_of_share(service), service.nodes()) else {
        return vec!["no tree".into()];
    };
    let rows: &dyn Rows = &service.rows;
    let mut lines: Vec<String> = listing
        .iter()
        .map(|(path, (content, ..))| {
            let nid = path.names().iter().try_fold(ROOT_NID, |dir, name| {
                let child = nodes.iter().find(|(_, row)| row.up == dir && row.name == *name);
                child.map(|(_, row)| row.nid)
            });
            let what = match content {
                Content::Directory => "/".to_owned(),
                Content::Symlink(_) => ">".to_owned(),
                Content::File { .. } => match token_of(content) {
                    Some(token) if is_zeros(token) => "=zeros".to_owned(),
                    Some(token) => format!("={}", number_of(token)),
                    None => "=?".to_owned(),
                },
            };
            format!("{path}{what} #{}", nid.unwrap_or(Nid(u64::MAX)).0)
        })
        .collect();
    let past = rows.closed_nodes(polder_types::Seq(0), polder_types::Seq(polder_ledger::SEQ_MAX), usize::MAX);
    let mut gone: Vec<u64> = past.expect("maps do not fail").iter().map(|past| past.row.nid.0).collect();
    gone.retain(|nid| !nodes.iter().any(|(_, row)| row.nid.0 == *nid));
    gone.sort_unstable();
    gone.dedup();
    lines.extend(gone.iter().map(|nid| format!("gone #{nid}")));
    lines
}
