//! QEMU's monitor, as far as it is needed here.

use core::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use crate::Result;

/// A connection to a monitor.
#[derive(Debug)]
pub struct Qmp {
    stream: BufReader<UnixStream>,
}

/// An answer that is not what was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QmpError {
    /// The command.
    pub command: String,
    /// What came back.
    pub answer: String,
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "QEMU answers `{}` to `{}`", self.answer.trim_end(), self.command)
    }
}

impl core::error::Error for QmpError {}

impl Qmp {
    /// Connects and leaves the negotiation mode.
    ///
    /// # Errors
    /// What the socket says.
    pub fn connect(path: &Path) -> Result<Self> {
        let mut new = Self { stream: BufReader::new(UnixStream::connect(path)?) };
        new.line()?;
        new.execute("qmp_capabilities", &json!({}))?;
        Ok(new)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err("QEMU closed its monitor".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Runs a command. Events that come in between are dropped.
    ///
    /// # Errors
    /// [`QmpError`] where QEMU refuses it.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}")?;
        self.answer(command)
    }

    /// The answer to the oldest command that has none.
    fn answer(&mut self, command: &str) -> Result<Value> {
        loop {
            let mut answer = self.line()?;
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(QmpError { command: command.to_owned(), answer: error.to_string() }.into());
            }
        }
    }

    /// Runs a command of the monitor for humans.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn human(&mut self, command: &str) -> Result<String> {
        let answer = self.execute("human-monitor-command", &json!({ "command-line": command }))?;
        answer.as_str().map(str::to_owned).ok_or_else(|| unexpected(command, &answer.to_string()))
    }

    /// A control register of the first processor.
    ///
    /// # Errors
    /// As [`execute`](Self::execute), and where it is not among the registers.
    pub fn register(&mut self, name: &str) -> Result<u64> {
        let answer = self.human("info registers")?;
        register_in(&answer, name).ok_or_else(|| unexpected("info registers", &answer))
    }

    /// Where QEMU's own walker finds `gva` in the address space that the first processor is in; `None` where not
    /// mapped.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn gva2gpa(&mut self, gva: u64) -> Result<Option<u64>> {
        self.gva2gpa_each(&[gva]).map(|found| found.first().copied().flatten())
    }

    /// The same for many addresses: questions are sent ahead of the answers, each of which takes the machine a while.
    ///
    /// # Errors
    /// As [`execute`](Self::execute).
    pub fn gva2gpa_each(&mut self, gvas: &[u64]) -> Result<Vec<Option<u64>>> {
        let mut found = Vec::with_capacity(gvas.len());
        for some in gvas.chunks(64) {
            let question = |gva: &u64| {
                let arguments = json!({ "command-line": format!("gva2gpa {gva:#x}") });
                format!("{}\n", json!({ "execute": "human-monitor-command", "arguments": arguments }))
            };
            let questions: String = some.iter().map(question).collect();
            self.stream.get_mut().write_all(questions.as_bytes())?;
            for gva in some {
                let command = format!("gva2gpa {gva:#x}");
                let answer = self.answer(&command)?;
                let told = answer.as_str().and_then(translation_in);
                found.push(told.ok_or_else(|| unexpected(&command, &answer.to_string()))?);
            }
        }
        Ok(found)
    }
}

fn unexpected(command: &str, answer: &str) -> crate::Error {
    QmpError { command: command.to_owned(), answer: answer.to_owned() }.into()
}

fn register_in(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(&format!("{name}="))?;
    u64::from_str_radix(rest.split_whitespace().next()?, 16).ok()
}

fn translation_in(text: &str) -> Option<Option<u64>> {
    let text = text.trim();
    if text == "Unmapped" {
        return Some(None);
    }
    u64::from_str_radix(text.strip_prefix("gpa: 0x").or_else(|| text.strip_prefix("gpa: "))?, 16).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_found_by_name() {
        let text =
            "GDT=     fffffe0000001000 0000007f\r\nCR0=80050033 CR2=00007f5a CR3=000000000266a000 CR4=000006f0\r\n";
        assert_eq!(register_in(text, "CR3"), Some(0x266_a000));
        assert_eq!(register_in(text, "CR4"), Some(0x6f0));
        assert_eq!(register_in(text, "CR8"), None);
    }

    #[test]
    fn translations_are_an_address_or_none() {
        assert_eq!(translation_in("gpa: 0x1fe0000\r\n"), Some(Some(0x1fe_0000)));
        assert_eq!(translation_in("Unmapped\r\n"), Some(None));
        assert_eq!(translation_in("unknown command: 'gva2gpa'"), None);
    }
}
