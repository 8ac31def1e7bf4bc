//! QEMU's debugger port, as far as it is needed to put a processor into another address space.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::Result;

/// A connection to the debugger port, for a guest that stands still: one that runs answers out of turn.
#[derive(Debug)]
pub struct Gdb {
    stream: UnixStream,
    cr3: Option<u32>,
}

impl Gdb {
    pub(crate) fn connect(path: &Path) -> Result<Self> {
        let mut new = Self { stream: UnixStream::connect(path)?, cr3: None };
        new.ask("?")?;
        // Single registers are only told to those who have asked for their description.
        new.ask("qXfer:features:read:target.xml:0,ffb")?;
        Ok(new)
    }

    fn ask(&mut self, request: &str) -> Result<String> {
        let sum = request.bytes().fold(0_u8, u8::wrapping_add);
        write!(self.stream, "${request}#{sum:02x}")?;
        let mut answer = Vec::new();
        let mut byte = [0];
        // An acknowledgement, `$`, the answer, `#`, two digits.
        loop {
            self.stream.read_exact(&mut byte)?;
            match byte[0] {
                b'$' => answer.clear(),
                b'#' => break,
                other => answer.push(other),
            }
        }
        self.stream.read_exact(&mut [0; 2])?;
        self.stream.write_all(b"+")?;
        Ok(String::from_utf8(answer)?)
    }

    fn register(&mut self, number: u32) -> Result<Option<u64>> {
        let answer = self.ask(&format!("p{number:x}"))?;
        let value = (answer.len() == 16).then(|| u64::from_str_radix(&answer, 16).ok()).flatten();
        Ok(value.map(u64::swap_bytes))
    }

    /// Sets `CR3`, of which `now` is the present value. Its number among the registers differs between versions of
    /// QEMU: it is the one that holds `now`.
    ///
    /// # Errors
    /// What the port says; where no register holds `now`, or it cannot be set.
    pub fn set_cr3(&mut self, now: u64, then: u64) -> Result<()> {
        let number = match self.cr3 {
            Some(number) => number,
            None => {
                // The general registers come first, and one of them may hold the same value by chance.
                let mut holds = None;
                for number in 24..100 {
                    if self.register(number)? == Some(now) {
                        holds = Some(number);
                    }
                }
                holds.ok_or_else(|| format!("no register of QEMU's debugger port holds CR3 = {now:#x}"))?
            }
        };
        self.cr3 = Some(number);
        let answer = self.ask(&format!("P{number:x}={:016x}", then.swap_bytes()))?;
        if answer == "OK" { Ok(()) } else { Err(format!("QEMU answers `{answer}` to a new CR3").into()) }
    }
}
