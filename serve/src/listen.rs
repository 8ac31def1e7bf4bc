//! Where a server listens, and its life.

use core::fmt;
use core::net::SocketAddr;
use core::str::FromStr;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Duration;

use crate::Limits;
use crate::access::Access;
use crate::guests::{Discover, Guests, Source};
use crate::routes::{Shared, router};
use crate::stall::Stall;

/// Where to listen: `127.0.0.1:0`, `[::1]:8080`, `unix:/run/vgpu.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port; port 0 takes a free one.
    Tcp(SocketAddr),
    /// A socket in the file system, for this user only.
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() {
                Err("unix: needs a path behind it".into())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let text = text.replace("localhost:", "127.0.0.1:");
        text.parse().map(Self::Tcp).map_err(|_| {
            format!("\"{text}\" is no address: IP:PORT as 127.0.0.1:8080, port 0 for a free one, or unix:PATH")
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(f, "{at}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// Whether only this machine can reach it.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        match self {
            Self::Tcp(at) => at.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

/// A place where connections come in.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    address: Address,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Listens. Called inside of a tokio runtime.
    ///
    /// # Errors
    /// The operating system's: the port is taken, the folder is not there.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(at) => {
                let listener = TcpListener::bind(at).await?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok(Self { kind: Kind::Tcp(listener), address })
            }
            Address::Unix(path) => Ok(Self { kind: Kind::Unix(bind_unix(path)?), address: address.clone() }),
        }
    }

    /// Where it listens, with the port that it got.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.address
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Kind::Unix(_), Address::Unix(path)) = (&self.kind, &self.address) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that is at `path` only once it has mode 0600: it is made in a folder that nobody else can enter.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Ok(there) = std::fs::symlink_metadata(path) {
        // One that nobody listens to is left over from a server that was killed.
        let dead = there.file_type().is_socket() && std::os::unix::net::UnixStream::connect(path).is_err();
        if !dead {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "there is something at this path, and it is in use"));
        }
        std::fs::remove_file(path)?;
    }
    let mut folder = path.file_name().unwrap_or_default().to_owned();
    folder.push(format!(".{}", std::process::id()));
    let folder = path.with_file_name(folder);
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let inside = folder.join("s");
    let made = UnixListener::bind(&inside).and_then(|listener| {
        std::fs::set_permissions(&inside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&inside, path)?;
        Ok(listener)
    });
    let _ = std::fs::remove_file(&inside);
    let _ = std::fs::remove_dir(&folder);
    made
}

/// The server.
pub struct Server {
    router: Router,
    guests: Arc<Guests>,
    limits: Limits,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("limits", &self.limits).finish_non_exhaustive()
    }
}

impl Server {
    /// A server of `sources`, and of what `discover` gives where that is set, for those whom `access` lets in.
    ///
    /// # Errors
    /// Where no thread can be started for a guest.
    pub fn new(sources: Vec<Source>, discover: Option<Discover>, access: Access, limits: Limits) -> io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, core::num::NonZero::get);
        let guests = Guests::new(sources, discover, limits.guests)?;
        let shared =
            Shared { guests: Arc::clone(&guests), access: Arc::new(access), encoders: Arc::new(Semaphore::new(cores)) };
        Ok(Self { router: router(shared), guests, limits })
    }

    /// Answers until `end` is there, then closes every connection.
    pub async fn run(self, listener: Listener, end: impl Future<Output = ()>) {
        let clients = Arc::new(Semaphore::new(self.limits.clients));
        let mut connections = tokio::task::JoinSet::new();
        tokio::pin!(end);
        loop {
            let accepted = tokio::select! {
                () = &mut end => break,
                // Those that have ended are forgotten.
                Some(_) = connections.join_next() => continue,
                accepted = accept(&listener) => accepted,
            };
            match accepted {
                Ok(io) => {
                    let place = Arc::clone(&clients).try_acquire_owned().ok();
                    connections.spawn(self.connection(io, place));
                }
                // No descriptors are left, say: those that are open go on.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        connections.shutdown().await;
    }

    /// One connection, to its end.
    pub fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        io: T,
        place: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (router, limits, guests) = (self.router.clone(), self.limits, Arc::clone(&self.guests));
        async move {
            let patience = Duration::from_secs(limits.seconds);
            let mut io = Stall::new(io, patience);
            if place.is_none() {
                const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 17\r\n\r\nToo many clients\n";
                let _ = tokio::time::timeout(Duration::from_secs(1), io.write_all(FULL)).await;
                return;
            }
            guests.metrics.clients.inc();
            // What a client does to its connection is its own affair.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(patience)
                .max_headers(64)
                .max_buf_size(limits.request.max(8 << 10))
                .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
                .await;
            guests.metrics.clients.dec();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.guests.retire();
    }
}

async fn accept(listener: &Listener) -> io::Result<Box<dyn Connection>> {
    Ok(match &listener.kind {
        Kind::Tcp(listener) => {
            let (io, _) = listener.accept().await?;
            io.set_nodelay(true)?;
            Box::new(io)
        }
        Kind::Unix(listener) => Box::new(listener.accept().await?.0),
    })
}

trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!("localhost:80".parse(), Ok(Address::Tcp("127.0.0.1:80".parse().unwrap())));
        assert!("unix:/x".parse::<Address>().unwrap().is_local());
        assert!(!"0.0.0.0:80".parse::<Address>().unwrap().is_local());
        for wrong in ["", "80", "unix:", "evil.example:80", "127.0.0.1"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }
}
