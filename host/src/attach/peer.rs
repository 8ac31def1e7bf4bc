//! Which process is at the other end of a socket.

use core::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{getsockopt, sockopt};
use rustix::fs::FileType;

use super::error::{AttachError, AttachErrorKind};
use super::monitor::{Monitor, MonitorAddress};
use super::procfs::{ProcDir, pids};
use super::vmm::{Vm, Vmm};

/// The process that listened on a unix socket when this end connected; `None` where the kernel may not say (the process
/// lives in a pid namespace that cannot be seen from here).
pub(super) fn pid_of(socket: BorrowedFd<'_>) -> Option<u32> {
    let credentials = getsockopt(&socket, sockopt::PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|pid| *pid != 0)
}

/// The virtual machine whose monitor this is.
///
/// The kernel names who began to listen. That is QEMU itself mostly; where another program opened the socket for it
/// (libvirt hands it over), the process is looked for that holds the listening socket and is a virtual machine.
pub(super) fn vm_behind(monitor: &Monitor, address: &MonitorAddress) -> Result<Vm, AttachError> {
    let by_credentials = match address {
        MonitorAddress::Unix(_) => pid_of(monitor.socket()),
        MonitorAddress::Tcp(_) => None,
    };
    let named = by_credentials.map(Vm::of_pid);
    if let Some(Ok(vm)) = named {
        return Ok(vm);
    }
    let inodes = match address {
        MonitorAddress::Unix(path) => listening(&read("/proc/net/unix"), &path.display().to_string()),
        MonitorAddress::Tcp(_) => match monitor.tcp_ends() {
            Some((own, far)) => {
                [tcp(&read("/proc/net/tcp"), far, own), tcp(&read("/proc/net/tcp6"), far, own)].concat()
            }
            None => Vec::new(),
        },
    };
    let mut holders = holders(&inodes);
    if holders.len() == 1
        && let Some(vm) = holders.pop()
    {
        return Ok(vm);
    }
    let who = match by_credentials.and_then(|pid| ProcDir::open(pid).ok()) {
        Some(proc) => {
            let program = proc.words().ok().and_then(|words| words.into_iter().next()).unwrap_or_default();
            format!("process {} ({program:?}), which is no virtual machine", proc.pid)
        }
        None => "a process that cannot be seen from here (another pid namespace, or another user's)".to_owned(),
    };
    Err(AttachError::new(
        AttachErrorKind::Monitor,
        format!(
            "{address}: the monitor is answered by {who}: whose RAM this is cannot be proven; give pid:N of the \
             virtual machine's process (`vgpu list` shows them)"
        ),
    ))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// The inodes of sockets that listen at `path`, by `/proc/net/unix`.
fn listening(table: &str, path: &str) -> Vec<u64> {
    let of = |line: &str| {
        let mut fields = line.split_whitespace();
        let state = fields.nth(5)?;
        let inode = fields.next()?.parse().ok()?;
        let ends = line.strip_suffix(path).is_some_and(|rest| rest.ends_with(' '));
        (state == "01" && ends).then_some(inode)
    };
    table.lines().filter_map(of).collect()
}

/// The inodes of the far end of a TCP connection of this host, by `/proc/net/tcp` or `tcp6`.
fn tcp(table: &str, local: SocketAddr, remote: SocketAddr) -> Vec<u64> {
    let of = |line: &str| {
        let mut fields = line.split_whitespace();
        let (here, there) = (address(fields.nth(1)?)?, address(fields.next()?)?);
        let inode = fields.nth(6)?.parse::<u64>().ok()?;
        let is = |known: SocketAddr, (ip, port): (IpAddr, u16)| known.ip().to_canonical() == ip && known.port() == port;
        (is(local, here) && is(remote, there) && inode != 0).then_some(inode)
    };
    table.lines().skip(1).filter_map(of).collect()
}

/// `0100007F:115C`: the bytes of an address as words of this machine, and a port. An IPv4 address in IPv6's form is
/// taken for what it is.
fn address(field: &str) -> Option<(IpAddr, u16)> {
    let (ip, port) = field.rsplit_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            IpAddr::from(<[u8; 16]>::try_from(words.as_flattened()).ok()?)
        }
        _ => return None,
    };
    Some((ip.to_canonical(), u16::from_str_radix(port, 16).ok()?))
}

/// The virtual machines that hold one of these sockets.
fn holders(inodes: &[u64]) -> Vec<Vm> {
    if inodes.is_empty() {
        return Vec::new();
    }
    let holds = |proc: &ProcDir| {
        let socket = |mode| FileType::from_raw_mode(mode) == FileType::Socket;
        let open = proc.descriptors().unwrap_or_default();
        open.iter().any(|(_, stat)| socket(stat.st_mode) && inodes.contains(&stat.st_ino))
    };
    pids()
        .into_iter()
        .filter(|pid| ProcDir::open(*pid).is_ok_and(|proc| holds(&proc)))
        .filter_map(|pid| Vm::of_pid(pid).ok())
        .collect()
}

/// Which kind of virtual machine answers at a socket, where who listens shows it.
pub(super) fn vmm_behind(path: &Path) -> Option<Vmm> {
    use std::os::fd::AsFd as _;
    let socket = UnixStream::connect(path).ok()?;
    Some(Vm::of_pid(pid_of(socket.as_fd())?).ok()?.vmm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_in_the_kernels_tables() {
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 22254 /run/a b\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 22255 /run/a b\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 22256 /x/run/a b\n";
        assert_eq!(listening(unix, "/run/a b"), [22254]);
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:115C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100\n\
            1: 0100007F:115C 0100007F:B2A4 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 100\n\
            2: 0100007F:B2A4 0100007F:115C 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 100\n\
            3: 0200007F:115C 0100007F:B2A4 01 00000000:00000000 00:00000000 00000000     0        0 103 1 0 100\n";
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        // The same ports at another address of the loopback are another connection.
        assert_eq!(tcp(table, at("127.0.0.1:4444"), at("127.0.0.1:45732")), [101]);
        assert_eq!(tcp(table, at("127.0.0.2:4444"), at("127.0.0.1:45732")), [103]);
        let six = "head\n 0: 00000000000000000000000001000000:115C 00000000000000000000000001000000:B2A4 01 \
            00000000:00000000 00:00000000 00000000     0        0 104 1 0 100\n\
            1: 0000000000000000FFFF00000100007F:115C 0000000000000000FFFF00000100007F:B2A4 01 \
            00000000:00000000 00:00000000 00000000     0        0 105 1 0 100\n";
        assert_eq!(tcp(six, at("[::1]:4444"), at("[::1]:45732")), [104]);
        assert_eq!(tcp(six, at("127.0.0.1:4444"), at("127.0.0.1:45732")), [105], "a socket of both families");
    }
}
