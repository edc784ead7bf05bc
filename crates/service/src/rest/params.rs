//! The query of a request, against the table of routes: what the table does not name is refused.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use polder_api::rest::routes::Route;
use polder_api::rest::{PAGE_ITEMS_MAX, Page, percent_decode};

use super::RestError;

/// Longest query string that is looked at.
const QUERY_BYTES_MAX: usize = 128 * 1024;

/// The parameters of one request.
#[derive(Debug, Default)]
pub struct Params(BTreeMap<String, String>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = RestError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, RestError> {
        let route = parts.extensions.get::<&'static Route>().ok_or(RestError::NoRoute)?;
        Self::parse(route, parts.uri.query().unwrap_or_default())
    }
}

impl Params {
    fn parse(route: &Route, query: &str) -> Result<Self, RestError> {
        if query.len() > QUERY_BYTES_MAX {
            return Err(RestError::BadRequest("the query is too long".into()));
        }
        let mut found = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (text(name)?, text(value)?);
            let known = route.query.contains(&name.as_str())
                || (route.paged && matches!(name.as_str(), "limit" | "after"))
                || (route.dry_run && name == "dry_run");
            if !known {
                let name = name.escape_default().take(80).collect::<String>();
                return Err(RestError::BadRequest(format!("the route has no parameter \"{name}\"")));
            }
            if found.insert(name.clone(), value).is_some() {
                return Err(RestError::BadRequest(format!("the parameter \"{name}\" stands twice")));
            }
        }
        Ok(Self(found))
    }

    /// A parameter, parsed.
    pub fn get<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, RestError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let parsed = value.parse();
        parsed.map(Some).map_err(|error| RestError::BadRequest(format!("the parameter \"{name}\": {error}")))
    }

    /// A switch: absent is off.
    pub fn flag(&self, name: &str) -> Result<bool, RestError> {
        Ok(self.get(name)?.unwrap_or(false))
    }

    /// Whether only the checks are wanted.
    pub fn dry_run(&self) -> Result<bool, RestError> {
        self.flag("dry_run")
    }

    /// Most items of the page.
    pub fn limit(&self) -> Result<usize, RestError> {
        let limit = self.get::<u32>("limit")?.unwrap_or(PAGE_ITEMS_MAX);
        if (1..=PAGE_ITEMS_MAX).contains(&limit) {
            Ok(limit as usize)
        } else {
            Err(RestError::BadRequest(format!("the parameter \"limit\": 1 to {PAGE_ITEMS_MAX}")))
        }
    }

    /// The place after which the page begins.
    pub fn after(&self) -> Option<&str> {
        self.0.get("after").map(String::as_str)
    }

    /// The page of a list that is at hand as a whole: `items` are sorted by `key`.
    pub fn page<T>(&self, items: Vec<T>, key: impl Fn(&T) -> String) -> Result<Page<T>, RestError> {
        let limit = self.limit()?;
        let after = self.after();
        let mut rest =
            items.into_iter().skip_while(|item| after.is_some_and(|after| key(item).as_str() <= after));
        let items: Vec<T> = rest.by_ref().take(limit).collect();
        let next = if rest.next().is_some() { items.last().map(key) } else { None };
        Ok(Page { items, next })
    }
}

fn text(encoded: &str) -> Result<String, RestError> {
    // Forms send a plus sign for a space.
    let bytes = percent_decode(&encoded.replace('+', "%20"))?;
    String::from_utf8(bytes).map_err(|_| RestError::BadRequest("the query is not UTF-8".into()))
}

#[cfg(test)]
mod tests {
    use polder_api::rest::routes::{ROUTES, SHARES};

    use super::*;

    fn parse(query: &str) -> Result<Params, RestError> {
        let route = ROUTES.iter().find(|route| route.path == SHARES && route.method == "GET");
        Params::parse(route.expect("in the table"), query)
    }

    #[test]
    fn queries_are_checked_against_the_table() {
        let params = parse("limit=2&deleted=true&after=a%26b").expect("all known");
        assert_eq!(params.limit().expect("in range"), 2);
        assert!(params.flag("deleted").expect("a switch"));
        assert_eq!(params.after(), Some("a&b"));
        for bad in ["delted=true", "limit=1&limit=2", "dry_run=true", "after=%ff", "after=%zz"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in ["limit=0", "limit=1001", "limit=x", "limit="] {
            assert!(parse(bad).expect("known").limit().is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_follow_each_other() {
        let items = || vec!["a", "b", "c"];
        let page =
            |query| parse(query).expect("known").page(items(), |item| item.to_string()).expect("a page");
        assert_eq!(page("limit=2"), Page { items: vec!["a", "b"], next: Some("b".into()) });
        assert_eq!(page("limit=2&after=b"), Page { items: vec!["c"], next: None });
        assert_eq!(page("limit=3"), Page { items: items(), next: None });
        assert_eq!(page("after=z"), Page { items: vec![], next: None });
    }
}
