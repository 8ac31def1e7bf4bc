//! What was measured, as text: to be saved by a program and given back when it runs again.

use core::fmt;
use core::str::FromStr;

use super::chooser::{Chooser, Class};
use super::record::METHODS;
use super::{Cpu, Method};

/// What the copies of a guest were measured to take: kept by a program from one run to the next, so that the next one
/// begins with the best methods instead of trying them again.
///
/// [`Display`](fmt::Display) writes it as lines of text and [`FromStr`] reads them: the processor, then a line for each
/// class of copies with `method=picoseconds a byte`, the method in use first. What was measured on another processor is
/// not used.
///
/// ```
/// use vgpu_perception_mapped::Calibration;
/// let saved = "vgpu-copy-calibration 1\nprocessor a processor\npages/16M/read/in-step six=98.5 memcpy=180\n";
/// let calibration: Calibration = saved.parse()?;
/// assert_eq!(calibration.to_string(), saved);
/// assert!(!calibration.is_for_this_processor());
/// # Ok::<(), vgpu_perception_mapped::CalibrationError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    processor: String,
    rates: Vec<(Class, [Option<u16>; METHODS])>,
}

/// The first line: what the text is, and its version.
const HEADING: &str = "vgpu-copy-calibration 1";

impl Calibration {
    pub(crate) fn of(chooser: &Chooser) -> Self {
        let rates = Class::all().map(|class| (class, chooser.rates(class)));
        let measured = rates.filter(|(_, rates)| rates.iter().any(Option::is_some));
        Self { processor: Cpu::this_name().to_owned(), rates: measured.collect() }
    }

    /// Has `chooser` begin with these rates, if they were measured on this processor.
    pub(crate) fn restore(&self, chooser: &Chooser) {
        if self.is_for_this_processor() {
            for (class, rates) in &self.rates {
                if let Some(record) = chooser.record(*class) {
                    record.restore(rates);
                }
            }
        }
    }

    /// Whether it was measured on a processor with this one's name: only then it is of use.
    #[must_use]
    pub fn is_for_this_processor(&self) -> bool {
        self.processor == Cpu::this_name()
    }

    /// Whether nothing was measured.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rates.is_empty()
    }
}

impl fmt::Display for Calibration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADING}\nprocessor {}", self.processor)?;
        for (class, rates) in &self.rates {
            write!(f, "{}", class.name())?;
            let mut known: Vec<_> =
                Method::ALL.into_iter().zip(rates).filter_map(|(m, r)| Some((r.as_ref()?, m))).collect();
            known.sort_by_key(|(rate, method)| (**rate, method.number()));
            for (rate, method) in known {
                write!(f, " {}={}", method.name(), f64::from(*rate) / 16.0)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A text that is no calibration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalibrationError {
    /// The number of the line, from 1.
    pub line: usize,
    /// What it says.
    pub text: String,
    /// What it should say.
    pub wanted: &'static str,
}

impl fmt::Display for CalibrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, text, wanted } = self;
        write!(f, "line {line} of the calibration is {text:?}, not {wanted}: delete the file, it is measured again")
    }
}

impl core::error::Error for CalibrationError {}

impl FromStr for Calibration {
    type Err = CalibrationError;

    fn from_str(text: &str) -> Result<Self, CalibrationError> {
        let mut lines = text.lines().enumerate().map(|(nth, line)| (nth + 1, line));
        let wrong = |line: usize, text: &str, wanted| CalibrationError { line, text: text.to_owned(), wanted };
        let (line, heading) = lines.next().unwrap_or((1, ""));
        if heading != HEADING {
            return Err(wrong(line, heading, "\"vgpu-copy-calibration 1\""));
        }
        let (line, processor) = lines.next().unwrap_or((2, ""));
        let Some(processor) = processor.strip_prefix("processor ") else {
            return Err(wrong(line, processor, "\"processor \" and its name"));
        };
        let mut all = Vec::new();
        for (line, text) in lines.filter(|(_, line)| !line.is_empty()) {
            let mut words = text.split(' ');
            let name = words.next().unwrap_or_default();
            let Some(class) = Class::all().find(|class| class.name() == name) else {
                return Err(wrong(line, name, "the name of a class of copies"));
            };
            let mut rates = [None; METHODS];
            for word in words {
                let rate = |number: &str| {
                    let number = number.parse::<f64>().ok()? * 16.0;
                    (number >= 1.0 && number <= f64::from(u16::MAX)).then_some(number as u16)
                };
                let parts = word.split_once('=').and_then(|(name, number)| Some((name, rate(number)?)));
                let Some((name, rate)) = parts else {
                    return Err(wrong(line, word, "method=picoseconds, from 0.0625 to 4095"));
                };
                // A method of another version is left out.
                let method = Method::ALL.into_iter().find(|method| method.name() == name);
                if let Some(slot) = method.and_then(|method| rates.get_mut(usize::from(method.number()))) {
                    *slot = Some(rate);
                }
            }
            all.push((class, rates));
        }
        Ok(Self { processor: processor.to_owned(), rates: all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_calibration_is_refused_with_its_line() {
        let good = "vgpu-copy-calibration 1\nprocessor x\n";
        for (text, line) in [
            ("", 1),
            ("vgpu-copy-calibration 2\n", 1),
            ("vgpu-copy-calibration 1\ncpu x\n", 2),
            (&format!("{good}pages/16M/read memcpy=3\n"), 3),
            (&format!("{good}\npages/16M/read/askew memcpy\n"), 4),
            (&format!("{good}pages/16M/read/askew memcpy=-1\n"), 3),
            (&format!("{good}pages/16M/read/askew memcpy=NaN\n"), 3),
            (&format!("{good}pages/16M/read/askew memcpy=1e9\n"), 3),
        ] {
            let error = text.parse::<Calibration>().unwrap_err();
            assert_eq!(error.line, line, "{error}");
        }
    }

    #[test]
    fn a_calibration_of_this_processor_is_used_and_another_is_not() {
        let of = |name: &str| format!("{HEADING}\nprocessor {name}\nruns/more/handoff/askew memcpy=50 plain=70\n");
        for (name, used) in [(Cpu::this_name(), true), ("another", false)] {
            let chooser = Chooser::new(Cpu::this());
            let calibration: Calibration = of(name).parse().unwrap();
            calibration.restore(&chooser);
            assert_eq!(!Calibration::of(&chooser).is_empty(), used, "{name}");
            assert!(!used || Calibration::of(&chooser) == calibration);
        }
    }
}
