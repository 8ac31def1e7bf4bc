//! Who may see screens: whoever holds the token, from a page of this server or from no page at all.

use core::fmt;
use core::net::IpAddr;

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use subtle::ConstantTimeEq;

/// The secret that opens the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadToken;

impl fmt::Display for BadToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a token has 16 to 256 letters, digits, - or _; make one: head -c 32 /dev/urandom | base64 | tr -dc \
             a-zA-Z0-9",
        )
    }
}

impl core::error::Error for BadToken {}

impl Token {
    /// A fresh one: 256 bits from the operating system.
    ///
    /// # Errors
    /// Where the operating system gives no random bytes.
    pub fn fresh() -> std::io::Result<Self> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// One that was made elsewhere.
    ///
    /// # Errors
    /// [`BadToken`]: too short to be a secret, or not to be written into a URL as it is.
    pub fn new(text: &str) -> Result<Self, BadToken> {
        let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
        if plain && (16..=256).contains(&text.len()) { Ok(Self(text.to_owned())) } else { Err(BadToken) }
    }

    /// The secret itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// In a time that does not tell how much of it is right.
    fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// Who is let in.
#[derive(Clone, Debug)]
pub struct Access {
    token: Option<Token>,
    cookie: String,
    names: Vec<String>,
    any_literal: bool,
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Method,
    Host,
    Origin,
    Token,
}

impl Refused {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host => StatusCode::MISDIRECTED_REQUEST,
            Self::Origin => StatusCode::FORBIDDEN,
            Self::Token => StatusCode::UNAUTHORIZED,
        }
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Method => "Only GET and HEAD are answered.\n",
            Self::Host => "This server does not go by the name in the Host header; vgpu serve --host NAME adds one.\n",
            Self::Origin => "Another page's requests are not answered.\n",
            Self::Token => {
                "No token, or a wrong one: open the URL that vgpu serve printed, or send Authorization: Bearer TOKEN.\n"
            }
        }
    }
}

impl Access {
    /// On this machine only: loopback by name or by number, with `token`.
    #[must_use]
    pub fn loopback(token: Token, port: u16) -> Self {
        Self { token: Some(token), cookie: format!("vgpu_token_{port}"), names: Vec::new(), any_literal: false }
    }

    /// From elsewhere too: any IP address in the Host header, since no name that an attacker can point elsewhere is
    /// one.
    #[must_use]
    pub fn remote(token: Token, port: u16) -> Self {
        Self { any_literal: true, ..Self::loopback(token, port) }
    }

    /// On a Unix socket, whose mode decides; with `token`, that is asked for too.
    #[must_use]
    pub fn unix(token: Option<Token>) -> Self {
        Self { token, cookie: "vgpu_token".into(), names: Vec::new(), any_literal: false }
    }

    /// Answers to this name in the Host header too: the server behind a proxy, or by its name in the network.
    #[must_use]
    pub fn also(mut self, name: &str) -> Self {
        self.names.push(name.to_ascii_lowercase());
        self
    }

    /// Judges a request by its head. True where the token came in the query, and a cookie is worth setting.
    pub(crate) fn check(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<bool, Refused> {
        if method != Method::GET && method != Method::HEAD {
            return Err(Refused::Method);
        }
        let host = self.host(uri, headers)?;
        self.origin(&host, headers)?;
        let Some(token) = &self.token else { return Ok(false) };
        if bearer(headers).is_some_and(|given| token.is(given)) {
            return Ok(false);
        }
        if cookies(headers).any(|(name, value)| name == self.cookie && token.is(value)) {
            return Ok(false);
        }
        let in_query = query(uri).any(|(name, value)| name == "token" && token.is(value));
        if in_query { Ok(true) } else { Err(Refused::Token) }
    }

    /// What a browser has to keep: for this server only, out of reach of scripts and of other sites.
    pub(crate) fn set_cookie(&self) -> Option<String> {
        let token = self.token.as_ref()?;
        Some(format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie, token.reveal()))
    }

    /// The one Host of the request: without this check, a page at a name that its owner points to 127.0.0.1 would be of
    /// the same origin as this server.
    fn host(&self, uri: &Uri, headers: &HeaderMap) -> Result<String, Refused> {
        let mut all = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (all.next(), all.next()) else { return Err(Refused::Host) };
        let host = host.to_str().map_err(|_| Refused::Host)?.to_ascii_lowercase();
        // A proxy's request names the host twice.
        if uri.authority().is_some_and(|authority| !authority.as_str().eq_ignore_ascii_case(&host)) {
            return Err(Refused::Host);
        }
        let name = without_port(&host).ok_or(Refused::Host)?;
        let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let known = match literal {
            Some(address) => self.any_literal || address.is_loopback(),
            None => name == "localhost",
        };
        if known || self.names.iter().any(|one| one == name || *one == host) { Ok(host) } else { Err(Refused::Host) }
    }

    /// A request that a page made has to be this server's own page's.
    fn origin(&self, host: &str, headers: &HeaderMap) -> Result<(), Refused> {
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().map_err(|_| Refused::Origin)?;
            let at = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
            if !at.is_some_and(|at| at.eq_ignore_ascii_case(host)) {
                return Err(Refused::Origin);
            }
        }
        // Images and navigation send no Origin; browsers say in this header where they come from.
        for site in headers.get_all("sec-fetch-site") {
            if site != "same-origin" && site != "none" {
                return Err(Refused::Origin);
            }
        }
        Ok(())
    }
}

/// The host of `host:port`; `None` where what stands behind it is no port.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            (host.get(..end)?, host.get(end..)?.strip_prefix(':').or_else(|| (end == host.len()).then_some("0"))?)
        }
        None => host.split_once(':').unwrap_or((host, "0")),
    };
    port.parse::<u16>().ok()?;
    Some(name)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&str, &str)> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='))
}

/// The pairs of the query as they stand there: a token needs no escapes.
fn query(uri: &Uri) -> impl Iterator<Item = (&str, &str)> {
    uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123";

    fn access() -> Access {
        Access::loopback(Token::new(TOKEN).unwrap(), 4000)
    }

    fn ask(access: &Access, uri: &str, headers: &[(&'static str, &str)]) -> Result<bool, Refused> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        access.check(&Method::GET, &uri.parse().unwrap(), &map)
    }

    #[test]
    fn the_token_comes_three_ways() {
        let host = ("host", "127.0.0.1:4000");
        assert_eq!(ask(&access(), &format!("/?token={TOKEN}"), &[host]), Ok(true));
        let bearer = format!("Bearer {TOKEN}");
        assert_eq!(ask(&access(), "/guests", &[host, ("authorization", &bearer)]), Ok(false));
        let cookie = format!("a=b; vgpu_token_4000={TOKEN}");
        assert_eq!(ask(&access(), "/guests", &[host, ("cookie", &cookie)]), Ok(false));
        for wrong in ["/", "/?token=", "/?token=0123456789abcdef012", "/?Token=0123456789abcdef0123"] {
            assert_eq!(ask(&access(), wrong, &[host]), Err(Refused::Token), "{wrong}");
        }
        let other = format!("vgpu_token_4001={TOKEN}");
        assert_eq!(ask(&access(), "/", &[host, ("cookie", &other)]), Err(Refused::Token));
        assert!(!format!("{:?}", access()).contains(TOKEN), "no secret in a log");
    }

    #[test]
    fn a_name_that_somebody_points_here_is_not_answered() {
        let uri = format!("/?token={TOKEN}");
        for good in ["127.0.0.1:4000", "localhost:4000", "LOCALHOST", "[::1]:4000", "[::1]", "127.0.0.1"] {
            assert!(ask(&access(), &uri, &[("host", good)]).is_ok(), "{good}");
        }
        for bad in ["evil.example:4000", "127.0.0.1.evil.example", "192.0.2.1:4000", "localhost:x", "[::1", "", "[]:1"]
        {
            assert_eq!(ask(&access(), &uri, &[("host", bad)]), Err(Refused::Host), "{bad}");
        }
        assert_eq!(ask(&access(), &uri, &[]), Err(Refused::Host), "none");
        let twice = [("host", "localhost"), ("host", "localhost")];
        assert_eq!(ask(&access(), &uri, &twice), Err(Refused::Host));
        let remote = Access::remote(Token::new(TOKEN).unwrap(), 4000);
        assert!(ask(&remote, &uri, &[("host", "192.0.2.1:4000")]).is_ok());
        assert_eq!(ask(&remote, &uri, &[("host", "evil.example")]), Err(Refused::Host));
        assert!(ask(&remote.also("wall.example"), &uri, &[("host", "wall.example:4000")]).is_ok());
    }

    #[test]
    fn another_pages_requests_are_not_answered() {
        let uri = format!("/guests?token={TOKEN}");
        let host = ("host", "127.0.0.1:4000");
        for good in [("origin", "http://127.0.0.1:4000"), ("sec-fetch-site", "same-origin"), ("sec-fetch-site", "none")]
        {
            assert!(ask(&access(), &uri, &[host, good]).is_ok(), "{good:?}");
        }
        for bad in [
            ("origin", "http://127.0.0.1:5000"),
            ("origin", "http://evil.example"),
            ("origin", "null"),
            ("origin", "http://localhost:4000"),
            ("sec-fetch-site", "same-site"),
            ("sec-fetch-site", "cross-site"),
        ] {
            assert_eq!(ask(&access(), &uri, &[host, bad]), Err(Refused::Origin), "{bad:?}");
        }
    }

    #[test]
    fn tokens_are_secrets() {
        let one = Token::fresh().unwrap();
        assert!(one != Token::fresh().unwrap() && one.reveal().len() == 64);
        assert!(Token::new("short").is_err() && Token::new("0123456789abcdef;").is_err());
    }
}
