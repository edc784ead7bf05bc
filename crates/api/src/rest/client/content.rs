//! Contents of files, streamed both ways.

use std::ops::Range;

use bytes::Bytes;
use futures::Stream;
use http::{Method, header};
use polder_types::{EndpointId, NodeUid, RelPath, ShareId};

use super::{Client, ClientError, Query};
use crate::rest::{At, Changed, PutQuery, encode_path, routes};

/// A file's bytes on their way here.
pub struct Content {
    bytes: Lines,
    /// Bytes that will come.
    pub size: u64,
    /// The version that they are of, where the service says.
    pub version: Option<u64>,
    got: u64,
}

impl Content {
    /// The next bytes; `None` after exactly `size` of them. Ending early is an error, never a short file.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        match self.bytes.next().await? {
            Some(part) => {
                self.got += part.len() as u64;
                Ok(Some(part))
            }
            None if self.got == self.size => Ok(None),
            None => Err(ClientError::Short { got: self.got, expected: self.size }),
        }
    }
}

/// A list on its way here, in whatever pieces it comes. Whether it is whole is for its reader to see.
pub struct Lines {
    answer: reqwest::Response,
    url: String,
}

impl Lines {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.answer.chunk().await.map_err(|source| ClientError::Unreachable {
            url: self.url.clone(),
            source: source.without_url(),
        })
    }
}

impl Client {
    /// Opens a file of a share for reading: all of it, or the bytes of `range`.
    pub async fn content(
        &self,
        share: &str,
        path: &RelPath,
        at: Option<&At>,
        range: Option<Range<u64>>,
    ) -> Result<Content, ClientError> {
        let at = at.map(At::to_string);
        let query = Query::default().maybe("at", at.as_deref());
        let mut request = self.request(Method::GET, &content_path(share, path), &query);
        if let Some(range) = range {
            let last = range.end.saturating_sub(1);
            request = request.header(header::RANGE, format!("bytes={}-{last}", range.start));
        }
        self.octets(request).await
    }

    /// Opens whichever kept version of a node has this content, which is the text of [`crate::left_behind::content_text`].
    pub async fn version(
        &self,
        share: ShareId,
        node: NodeUid,
        content: &str,
    ) -> Result<Content, ClientError> {
        let path = routes::fill(routes::VERSION, &[&share.to_string(), &node.to_string()]);
        let query = Query::default().maybe("content", Some(content));
        self.octets(self.request(Method::GET, &path, &query)).await
    }

    /// Opens the list of what may be tiered at an endpoint (`docs/formats/left-behind.md`). Its length is not known before its end.
    pub async fn left_behind(&self, endpoint: EndpointId) -> Result<Lines, ClientError> {
        let path = routes::fill(routes::ENDPOINT_LEFT_BEHIND, &[&endpoint.to_string()]);
        let answer = self.send(self.request(Method::GET, &path, &Query::default())).await?;
        Ok(Lines { answer, url: self.base.clone() })
    }

    async fn octets(&self, request: reqwest::RequestBuilder) -> Result<Content, ClientError> {
        let answer = self.send(request).await?;
        let size = answer.content_length().ok_or(ClientError::Short { got: 0, expected: 0 })?;
        let tag = answer.headers().get(header::ETAG).and_then(|tag| tag.to_str().ok());
        let version = tag.and_then(|tag| tag.trim_matches('"').parse().ok());
        let bytes = Lines { answer, url: self.base.clone() };
        Ok(Content { bytes, size, version, got: 0 })
    }

    /// Creates or replaces a file with the bytes of `body`, of which there are `size`, where known. Progress is what
    /// the stream was asked for.
    pub async fn put<S, E>(
        &self,
        share: &str,
        path: &RelPath,
        query: &PutQuery,
        size: Option<u64>,
        body: S,
    ) -> Result<Changed, ClientError>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    {
        let mut parameters = Query::default()
            .maybe("mtime", query.mtime.map(|time| time.to_string()).as_deref())
            .maybe("mode", query.mode.map(|mode| mode.to_string()).as_deref());
        for (key, number) in
            [("uid", query.uid.map(u64::from)), ("gid", query.gid.map(u64::from)), ("base", query.base)]
        {
            parameters = parameters.maybe(key, number.map(|number| number.to_string()).as_deref());
        }
        parameters = parameters.flag("create_only", query.create_only).flag("parents", query.parents);
        let mut request = self
            .request(Method::PUT, &content_path(share, path), &parameters)
            .header(header::CONTENT_TYPE, "application/octet-stream");
        request = match size {
            // A stream that ends before its announced length breaks the request: a file never ends up cut.
            Some(size) => request.header(header::CONTENT_LENGTH, size),
            None => request,
        };
        self.json(request.body(reqwest::Body::wrap_stream(body))).await
    }
}

fn content_path(share: &str, path: &RelPath) -> String {
    format!("{}/{}", routes::fill(routes::CONTENT, &[share]), encode_path(path))
}
