//! Monitors behind a proxy: whose RAM it is cannot be proven by them, and the number of the process is asked for.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;

use vgpu_perception_guest_tests::{Guest, Memory, Options, Result};
use vgpu_perception_host::attach::{AttachErrorKind, attach};

use super::ensure;
use super::ways::{SIZE, SMALL, show, spec};

/// A proxy at a socket, and one at a port; then what their refusal advises.
pub(crate) fn run() -> Result<()> {
    let mut guest = Guest::boot(Options { memory: Memory::Memfd, ..SMALL })?;
    let ready = guest.start_producer(&format!("--width {} --height {} --fps 20", SIZE.0, SIZE.1))?;
    let path = guest.dir().join("proxy");
    let unix = UnixListener::bind(&path)?;
    let monitor = guest.qmp_path();
    thread::spawn(move || unix.incoming().flatten().for_each(|client| relay(client, &monitor)));
    let tcp = TcpListener::bind("127.0.0.1:0")?;
    let port = tcp.local_addr()?.port();
    let monitor = guest.qmp_path();
    thread::spawn(move || tcp.incoming().flatten().for_each(|client| relay(client, &monitor)));
    for way in [format!("qmp:{}", path.display()), format!("qmp:127.0.0.1:{port}")] {
        let Err(error) = attach(&spec(&way)?) else { return Err(format!("{way}: a proxy was believed").into()) };
        let text = error.to_string();
        ensure!(error.kind() == AttachErrorKind::Monitor && text.contains("pid:N"), "{way}: {text}");
    }
    let attachment = attach(&spec(&format!("pid:{}", guest.pid()))?)?;
    show(&attachment, ready, SIZE)?;
    println!("  behind a proxy, at a socket and at a port: refused, and by pid as advised: frames right");
    Ok(())
}

/// Both ends of a proxy.
trait End: Read + Write + Send + Sized + 'static {
    fn twin(&self) -> io::Result<Self>;
    fn hang_up(&self);
}

impl End for UnixStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn hang_up(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl End for TcpStream {
    fn twin(&self) -> io::Result<Self> {
        self.try_clone()
    }
    fn hang_up(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

/// Passes on what either side says, until one hangs up.
fn relay(mut client: impl End, monitor: &PathBuf) {
    let Ok(mut far) = UnixStream::connect(monitor) else { return };
    let (Ok(mut to), Ok(mut from)) = (far.twin(), client.twin()) else { return };
    let up = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        to.hang_up();
    });
    let _ = io::copy(&mut far, &mut client);
    client.hang_up();
    let _ = up.join();
}
