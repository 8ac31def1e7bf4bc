//! `vgpu serve`: the wall of all guests in a browser, and what other programs read of it.

use core::time::Duration;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use vgpu_perception_host::Guest;
use vgpu_perception_host::attach::{GuestSource, GuestSpec, running};
use vgpu_perception_serve::{Access, Address, Discover, Limits, Listener, Server, Source, Token};

use crate::failure::Failure;
use crate::stop::Stop;

#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The guests, named as for find; all virtual machines of this host where none is named
    pub(crate) guests: Vec<String>,
    #[command(flatten)]
    pub(crate) listen: Listen,
}

/// Where, and for whom.
#[derive(Debug, Args)]
pub(crate) struct Listen {
    /// Where to listen: IP:PORT, port 0 for a free one, or unix:PATH for this user alone (mode 0600)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub(crate) listen: Address,
    /// Listen at an address that other machines reach; needs --token-file. Everybody who holds the token sees the
    /// screens, and so does who reads the network: put a proxy with TLS before it
    #[arg(long, requires = "token_file")]
    pub(crate) allow_remote: bool,
    /// Take the token from this file, which nobody else may read; else a fresh one is made and printed
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Answer to this name in the Host header too: that of a proxy, say. May be repeated
    #[arg(long = "host", value_name = "NAME")]
    pub(crate) hosts: Vec<String>,
    /// Connections at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) max_clients: u32,
}

pub(crate) fn serve(args: &Serve, json: bool) -> Result<(), Failure> {
    let named = args.guests.iter().map(|name| source(name)).collect::<Result<Vec<_>, Failure>>()?;
    let discover: Option<Discover> = if named.is_empty() { Some(Box::new(host_guests)) } else { None };
    run(named, discover, &args.listen, json, &Stop::on_signals(|| {})?, || None)
}

fn source(name: &str) -> Result<Source, Failure> {
    let spec: GuestSpec = name.parse()?;
    // A file by its name, a guest by its own.
    let shown = match &spec.source() {
        GuestSource::Ram(_) | GuestSource::Core(_) => name.rsplit('/').next().unwrap_or(name),
        _ => name.split_once(':').map_or(name, |(_, rest)| rest),
    };
    let attach = move || Guest::attach_to(&spec).map_err(|error| error.to_string());
    Ok(Source { name: shown.to_owned(), key: name.to_owned(), attach: Box::new(attach) })
}

/// The virtual machines that run on this host.
fn host_guests() -> Vec<Source> {
    let sources = running().into_iter().map(|one| {
        let spec = GuestSpec::new(GuestSource::Pid(one.pid));
        let attach = move || Guest::attach_to(&spec).map_err(|error| error.to_string());
        let name = one.name.unwrap_or_else(|| format!("pid {}", one.pid));
        Source { name, key: one.pid.to_string(), attach: Box::new(attach) }
    });
    sources.collect()
}

/// Serves until a signal comes; says what `news` has to tell meanwhile.
pub(crate) fn run(
    sources: Vec<Source>,
    discover: Option<Discover>,
    listen: &Listen,
    json: bool,
    stop: &Stop,
    news: impl Fn() -> Option<String>,
) -> Result<(), Failure> {
    if !listen.listen.is_local() && !listen.allow_remote {
        return Err(Failure::Usage(format!(
            "{} can be reached from other machines: that takes --allow-remote and --token-file FILE",
            listen.listen
        )));
    }
    let given = listen.token_file.as_deref().map(token).transpose()?;
    let failed = |error: std::io::Error| Failure::Guest(format!("cannot serve: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let done = runtime.block_on(async {
        let listener = Listener::bind(&listen.listen).await.map_err(|error| {
            Failure::Guest(format!("cannot listen at {}: {error}; 127.0.0.1:0 takes a free port", listen.listen))
        })?;
        let (mut access, shown) = match listener.address() {
            Address::Unix(_) => (Access::unix(given), None),
            Address::Tcp(at) => {
                let (token, shown) = match given {
                    // Who made it knows it; a log need not.
                    Some(token) => (token, None),
                    None => {
                        let token = Token::fresh().map_err(failed)?;
                        (token.clone(), Some(token))
                    }
                };
                let make = if listen.allow_remote { Access::remote } else { Access::loopback };
                (make(token, at.port()), shown)
            }
        };
        for name in &listen.hosts {
            access = access.also(name);
        }
        let limits = Limits::default().clients(listen.max_clients as usize);
        let server = Server::new(sources, discover, access, limits).map_err(failed)?;
        announce(listener.address(), shown.as_ref(), json);
        let end = async {
            while !stop.is_set() {
                if let Some(text) = news() {
                    eprintln!("vgpu: {text}");
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        server.run(listener, end).await;
        Ok(())
    });
    // A picture that is being made is not waited for.
    runtime.shutdown_timeout(Duration::from_millis(500));
    done
}

/// The first line of output: what to open.
fn announce(address: &Address, token: Option<&Token>, json: bool) {
    let url = match (address, token) {
        (Address::Tcp(at), Some(token)) => format!("http://{at}/?token={}", token.reveal()),
        (Address::Tcp(at), None) => format!("http://{at}/"),
        (Address::Unix(_), _) => address.to_string(),
    };
    let line = if json { json!({ "url": url, "token": token.map(Token::reveal) }).to_string() } else { url };
    let mut out = std::io::stdout();
    // Whoever started it reads the line, or does not.
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

/// The token of a file that nobody else can read.
fn token(path: &Path) -> Result<Token, Failure> {
    let failed = |what: &dyn core::fmt::Display| Failure::Usage(format!("{}: {what}", path.display()));
    let mode = std::fs::metadata(path).map_err(|error| failed(&error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(failed(&format!("others can read this file (mode {:03o}): chmod 600 it", mode & 0o777)));
    }
    let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
    Token::new(text.trim()).map_err(|error| failed(&error))
}
