//! A client of QEMU's monitor (QMP): a few questions, one deadline for all of them.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::error::{AttachError, AttachErrorKind};
use super::json_stream::{JsonStream, StreamError};

/// How long a monitor may take for everything that is asked of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where a monitor listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorAddress {
    /// A socket in the file system.
    Unix(PathBuf),
    /// A TCP port, host and number; only on this host's loopback, since RAM of this host is what is read.
    Tcp(String),
}

impl MonitorAddress {
    /// Reads `PATH`, `HOST:PORT`, and QEMU's own `unix:PATH,server=on` and `tcp:HOST:PORT,server=on`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let plain = |rest: &str| rest.split(',').next().unwrap_or_default().to_owned();
        if let Some(rest) = text.strip_prefix("unix:") {
            return Self::Unix(plain(rest).into());
        }
        if let Some(rest) = text.strip_prefix("tcp:") {
            return Self::Tcp(plain(rest));
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.contains('/') && port.parse::<u16>().is_ok() => Self::Tcp(text.to_owned()),
            _ => Self::Unix(text.into()),
        }
    }
}

impl core::fmt::Display for MonitorAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

#[derive(Debug)]
enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// A connection to a monitor that has answered as one. Dropped, it is free for the next client.
#[derive(Debug)]
pub(super) struct Monitor {
    address: MonitorAddress,
    stream: Stream,
    json: JsonStream,
    deadline: Instant,
}

impl Monitor {
    /// Connects; nothing is sent or awaited yet.
    pub(super) fn connect(address: &MonitorAddress) -> Result<Self, AttachError> {
        let refuse = |kind, what: String| Err(AttachError::new(kind, format!("{address}: {what}")));
        let stream = match address {
            MonitorAddress::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            MonitorAddress::Tcp(text) => {
                let loopback = loopback(text);
                let Some(target) = loopback else {
                    return refuse(
                        AttachErrorKind::Monitor,
                        "is no address of this host's loopback: the guest's RAM is read on the host that runs it, so \
                         run vgpu there and give qmp:127.0.0.1:PORT, or pid:N"
                            .into(),
                    );
                };
                TcpStream::connect_timeout(&target, PATIENCE).map(Stream::Tcp)
            }
        };
        match stream {
            Ok(stream) => Ok(Self {
                address: address.clone(),
                stream,
                json: JsonStream::default(),
                deadline: Instant::now() + PATIENCE,
            }),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => refuse(
                    AttachErrorKind::NotFound,
                    "no such monitor socket; `vgpu list` shows the virtual machines of this host and their monitors"
                        .into(),
                ),
                io::ErrorKind::PermissionDenied => refuse(
                    AttachErrorKind::Permission,
                    "this user may not connect to it: run as the user of the virtual machine, or as root".into(),
                ),
                io::ErrorKind::ConnectionRefused => refuse(
                    AttachErrorKind::Ended,
                    "nobody listens there any more: QEMU has ended; `vgpu list` shows what runs".into(),
                ),
                _ => refuse(AttachErrorKind::Monitor, format!("cannot be connected to: {error}")),
            },
        }
    }

    /// Waits for the greeting.
    pub(super) fn greet(&mut self) -> Result<(), AttachError> {
        let greeting = self.receive()?;
        if greeting.get("QMP").is_none() {
            return Err(self.failed(AttachErrorKind::Monitor, "what answers there is no QMP monitor of QEMU"));
        }
        Ok(())
    }

    /// Leaves the negotiation mode.
    pub(super) fn enable(&mut self) -> Result<(), AttachError> {
        self.execute("qmp_capabilities", &json!({})).map(drop)
    }

    /// Runs a command; events that come in between are dropped.
    pub(super) fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, AttachError> {
        let text = format!("{}\n", json!({ "execute": command, "arguments": arguments }));
        self.send(text.as_bytes())?;
        loop {
            let mut answer = self.receive()?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                let why = error["desc"].as_str().unwrap_or("no reason given").to_owned();
                return Err(self.failed(AttachErrorKind::Monitor, &format!("QEMU refused {command}: {why}")));
            }
        }
    }

    /// Runs a command of the monitor for humans.
    pub(super) fn human(&mut self, line: &str) -> Result<String, AttachError> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": line }))?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }

    fn receive(&mut self) -> Result<Value, AttachError> {
        let mut some = [0; 16 << 10];
        loop {
            match self.json.next_object() {
                Ok(Some(object)) => {
                    return serde_json::from_slice(&object).map_err(|error| {
                        self.failed(AttachErrorKind::Monitor, &format!("its answer is no JSON: {error}"))
                    });
                }
                Ok(None) => {}
                Err(StreamError::TooLong) => {
                    return Err(self.failed(
                        AttachErrorKind::Monitor,
                        "its answer is longer than 1 MiB: this is no monitor of QEMU",
                    ));
                }
                Err(StreamError::NoObject(text)) if text.starts_with("QEMU ") && text.contains("monitor") => {
                    return Err(self.failed(
                        AttachErrorKind::Monitor,
                        "this is QEMU's monitor for humans (-monitor), and the one for programs is needed: add -qmp \
                         unix:PATH,server=on,wait=off to QEMU's command line, or give pid:N or name:NAME",
                    ));
                }
                Err(StreamError::NoObject(text)) => {
                    return Err(self.failed(
                        AttachErrorKind::Monitor,
                        &format!("answers {text:?}, which is no JSON: this is no QMP monitor of QEMU"),
                    ));
                }
            }
            let left = self.left()?;
            let got = match &mut self.stream {
                Stream::Unix(stream) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut some)),
                Stream::Tcp(stream) => stream.set_read_timeout(Some(left)).and_then(|()| stream.read(&mut some)),
            };
            match got {
                Ok(0) => {
                    return Err(self
                        .failed(AttachErrorKind::Ended, "QEMU closed the connection: has it ended? see `vgpu list`"));
                }
                Ok(len) => self.json.push(some.get(..len).unwrap_or_default()),
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(self.failed(AttachErrorKind::Monitor, &format!("reading from it failed: {error}")));
                }
            }
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<(), AttachError> {
        while !bytes.is_empty() {
            let left = self.left()?;
            let sent = match &mut self.stream {
                Stream::Unix(stream) => stream.set_write_timeout(Some(left)).and_then(|()| stream.write(bytes)),
                Stream::Tcp(stream) => stream.set_write_timeout(Some(left)).and_then(|()| stream.write(bytes)),
            };
            match sent {
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(error) if is_timeout(&error) || error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(self.failed(AttachErrorKind::Monitor, &format!("writing to it failed: {error}")));
                }
            }
        }
        Ok(())
    }

    /// The time that is left; at least a millisecond, since 0 would wait for ever.
    fn left(&self) -> Result<Duration, AttachError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Ok(left.max(Duration::from_millis(1)));
        }
        let seconds = PATIENCE.as_secs();
        Err(match &self.address {
            MonitorAddress::Unix(path) if is_held(path) => self.failed(
                AttachErrorKind::MonitorBusy,
                &format!(
                    "did not answer within {seconds} s: another client (libvirt?) holds this monitor, which serves \
                     one at a time; give name:NAME or pid:N instead, which need no monitor"
                ),
            ),
            _ => self.failed(
                AttachErrorKind::Monitor,
                &format!("did not answer within {seconds} s; give name:NAME or pid:N instead, which need no monitor"),
            ),
        })
    }

    fn failed(&self, kind: AttachErrorKind, what: &str) -> AttachError {
        AttachError::new(kind, format!("{}: {what}", self.address))
    }

    /// The address of the far end, as this end of a TCP connection sees it.
    pub(super) fn tcp_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        match &self.stream {
            Stream::Unix(_) => None,
            Stream::Tcp(stream) => Some((stream.local_addr().ok()?, stream.peer_addr().ok()?)),
        }
    }

    pub(super) fn socket(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tcp(stream) => stream.as_fd(),
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// The address where `text` names this host's loopback only.
fn loopback(text: &str) -> Option<SocketAddr> {
    let text = if text.starts_with(':') { format!("127.0.0.1{text}") } else { text.to_owned() };
    let all: Vec<_> = text.to_socket_addrs().ok()?.collect();
    all.iter().all(|address| address.ip().is_loopback()).then(|| all.first().copied()).flatten()
}

/// Whether somebody else's connection to this socket stands while ours waits to be accepted.
fn is_held(path: &Path) -> bool {
    let Ok(table) = std::fs::read_to_string("/proc/net/unix") else { return false };
    let path = path.display().to_string();
    connections(&table, &path, "03") > 0 && connections(&table, &path, "02") > 0
}

/// How many far ends of connections to `path` are in this state, by the lines of `/proc/net/unix`: 01 listens, 02 waits
/// to be accepted, 03 is connected.
fn connections(table: &str, path: &str, state: &str) -> usize {
    let is_one = |line: &&str| {
        line.split_whitespace().nth(5) == Some(state) && line.strip_suffix(path).is_some_and(|rest| rest.ends_with(' '))
    };
    table.lines().filter(is_one).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let unix = |path: &str| MonitorAddress::Unix(path.into());
        assert_eq!(MonitorAddress::parse("/run/q.sock"), unix("/run/q.sock"));
        assert_eq!(MonitorAddress::parse("unix:/run/q.sock,server=on,wait=off"), unix("/run/q.sock"));
        assert_eq!(MonitorAddress::parse("./a:4444"), unix("./a:4444"));
        assert_eq!(MonitorAddress::parse("tcp:localhost:4444,server"), MonitorAddress::Tcp("localhost:4444".into()));
        assert_eq!(MonitorAddress::parse("127.0.0.1:4444"), MonitorAddress::Tcp("127.0.0.1:4444".into()));
        assert_eq!(MonitorAddress::parse("host:name"), unix("host:name"));
        assert!(loopback("127.0.0.1:1").is_some() && loopback("[::1]:1").is_some() && loopback(":1").is_some());
        assert!(loopback("192.0.2.1:1").is_none() && loopback("0.0.0.0:1").is_none());
    }

    #[test]
    fn who_is_connected() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
             0000000000000000: 00000002 00000000 00010000 0001 01 22254 /tmp/a.qmp\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 22255 /tmp/a.qmp\n\
             0000000000000000: 00000003 00000000 00000000 0001 03 22256\n";
        assert_eq!((connections(table, "/tmp/a.qmp", "03"), connections(table, "/tmp/a.qmp", "02")), (1, 0));
        assert_eq!(connections(table, "/tmp/b.qmp", "03"), 0);
    }
}
