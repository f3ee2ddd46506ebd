//! Names of HTTP servers, as `grant` and `[[servers]]` spell them.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use reqwest::Url;

/// An HTTP server: `HOST`, or `HOST:PORT` where the port is not the usual one. Written as
/// addresses have it: in lower case, international names in their ASCII form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName(String);

/// A text that names no HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found}; {help}")]
pub struct ServerNameError {
    /// What is wrong with it.
    pub found: String,
    /// What to write instead.
    pub help: String,
}

impl ServerName {
    /// The server that an address leads to; `None` where it leads to none.
    #[must_use]
    pub fn of(url: &Url) -> Option<Self> {
        let host = url.host_str()?;
        Some(ServerName(match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }))
    }

    /// What a plugin declares and a recipe grants: `http:HOST`.
    #[must_use]
    pub fn capability(&self) -> String {
        format!("http:{self}")
    }

    /// Whether whoever wrote the name has said where it leads: an address in numbers, or this
    /// machine.
    #[must_use]
    pub fn says_where(&self) -> bool {
        let host = match self.0.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
            _ => &self.0,
        };
        host == "localhost"
            || host.ends_with(".localhost")
            || host.starts_with('[')
            || host.parse::<Ipv4Addr>().is_ok()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServerName {
    type Err = ServerNameError;

    fn from_str(text: &str) -> Result<Self, ServerNameError> {
        let wrong = |help: String| ServerNameError {
            found: format!("\"{text}\" is no name of a server"),
            help,
        };
        if text == "*" {
            return Err(wrong(
                "a plugin may leave the name open, a recipe names each server".into(),
            ));
        }
        let example =
            "write a host such as \"api.example.com\", with \":PORT\" after it if need be";
        if text.contains("//") {
            let named = Url::parse(text).ok();
            let named = named.as_ref().and_then(ServerName::of);
            return Err(wrong(named.map_or(example.to_owned(), |name| {
                format!("write \"{name}\", without the rest of the address")
            })));
        }
        let url = Url::parse(&format!("https://{text}/")).map_err(|_| wrong(example.into()))?;
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        let anonymous = url.username().is_empty() && url.password().is_none();
        let name = ServerName::of(&url).filter(|_| bare && anonymous);
        let name = name.ok_or_else(|| wrong(example.into()))?;
        if name.0 != text {
            return Err(wrong(format!("write \"{name}\"")));
        }
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_hosts_with_ports_where_those_are_not_usual() {
        for name in [
            "api.example.com",
            "localhost",
            "localhost:8080",
            "10.0.0.3",
            "[::1]:9000",
        ] {
            assert_eq!(name.parse::<ServerName>().unwrap().to_string(), name);
        }
        for (wrong, help) in [
            ("API.example.com", "write \"api.example.com\""),
            ("example.com:443", "write \"example.com\""),
            (
                "https://example.com/v1",
                "write \"example.com\", without the rest of the address",
            ),
            ("*", "a recipe names each server"),
            ("example.com/v1", "write a host such as"),
            ("me@example.com", "write a host such as"),
            ("", "write a host such as"),
            ("bücher.example", "write \"xn--bcher-kva.example\""),
        ] {
            let error = wrong.parse::<ServerName>().unwrap_err().to_string();
            assert!(error.contains(help), "{wrong}: {error}");
        }
    }

    #[test]
    fn an_address_names_its_server() {
        let name = |url: &str| {
            ServerName::of(&Url::parse(url).unwrap())
                .unwrap()
                .to_string()
        };
        assert_eq!(name("https://API.example.com/a?b"), "api.example.com");
        assert_eq!(name("https://api.example.com:443/"), "api.example.com");
        assert_eq!(name("http://localhost:80/"), "localhost");
        assert_eq!(name("http://localhost:8080/"), "localhost:8080");
    }

    #[test]
    fn numbers_and_this_machine_say_where_they_lead() {
        let says = |name: &str| name.parse::<ServerName>().unwrap().says_where();
        assert!(says("127.0.0.1:80") && says("[::1]") && says("localhost:9"));
        assert!(!says("example.com") && !says("wiki.internal"));
    }
}
