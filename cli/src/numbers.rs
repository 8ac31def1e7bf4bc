//! Numbers as people type them, and what to say of those that cannot be taken.

use vgpu_perception::Cr3;
use vgpu_perception::abi;
use vgpu_perception_mapped::parse_number;

/// In which each producer beats at least once.
const HEARTBEAT_PERIOD_MS: u64 = abi::HEARTBEAT_PERIOD_MS as u64;

/// The longest that `--wait-ms` may be.
const LONGEST_WAIT_MS: u64 = 60_000;

/// A root that was given, or not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Root {
    Auto,
    Given(Cr3),
}

/// `--cr3`.
pub(crate) fn cr3(text: &str) -> Result<Root, String> {
    if text == "auto" {
        return Ok(Root::Auto);
    }
    number(text).map(|raw| Root::Given(Cr3::new(raw))).map_err(|why| format!("{why}, or auto"))
}

/// `--base`.
pub(crate) fn address(text: &str) -> Result<u64, String> {
    number(text)
}

/// An address: programs print them in hexadecimal, often without the 0x that tells it.
fn number(text: &str) -> Result<u64, String> {
    let digits = text.trim().replace('_', "");
    let is_hex = !digits.is_empty() && digits.chars().all(|digit| digit.is_ascii_hexdigit());
    let reads_as_hex =
        digits.chars().any(|digit| digit.is_ascii_alphabetic()) || (digits.starts_with('0') && digits.len() > 1);
    if is_hex && reads_as_hex {
        let bare = digits.trim_start_matches('0');
        let bare = if bare.is_empty() { "0" } else { bare };
        return Err(format!("\"{text}\" reads like a hexadecimal number without 0x: write 0x{bare}"));
    }
    parse_number(text)
        .ok_or_else(|| format!("\"{text}\" is no number below 2^64: write it in hexadecimal (0x1ad000) or decimal"))
}

/// `--wait-ms`.
pub(crate) fn wait_ms(text: &str) -> Result<u64, String> {
    let range = format!("give {HEARTBEAT_PERIOD_MS} to {LONGEST_WAIT_MS}");
    match text.parse() {
        Ok(ms) if ms < HEARTBEAT_PERIOD_MS => Err(format!(
            "{ms} ms is less than the heartbeat period: a producer beats every {HEARTBEAT_PERIOD_MS} ms, so after \
             {ms} ms nothing is known of one that has not; {range}"
        )),
        Ok(ms) if ms > LONGEST_WAIT_MS => {
            Err(format!("{ms} ms is too long; {range}, or --wait-for SECONDS to wait for a guest that is not up yet"))
        }
        Ok(ms) => Ok(ms),
        Err(_) => Err(format!("\"{text}\" is no number of milliseconds; {range}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cr3_is_a_number_or_auto() {
        assert!(matches!(cr3("auto"), Ok(Root::Auto)));
        assert!(matches!(cr3("0x1ad000"), Ok(Root::Given(root)) if root.get() == 0x1a_d000));
        assert!(matches!(cr3("1757184"), Ok(Root::Given(root)) if root.get() == 0x1a_d000));
        assert!(cr3("0x1ad00z").unwrap_err().contains("0x1ad00z"));
    }

    #[test]
    fn hexadecimal_without_0x() {
        for (text, wanted) in [
            ("1ad000", "write 0x1ad000"),
            ("00000000001ad000", "write 0x1ad000"),
            ("0000000000109000", "write 0x109000"),
            ("7e12_3460_0000", "write 0x7e1234600000"),
            ("00", "write 0x0"),
        ] {
            let told = address(text).unwrap_err();
            assert!(told.contains(text) && told.contains(wanted), "{told}");
        }
        assert_eq!((address("0"), address("4096"), address("4K")), (Ok(0), Ok(4096), Ok(4096)));
        assert!(address("0x1_0000_0000_0000_0000").unwrap_err().contains("2^64"));
        assert!(address("-1").unwrap_err().contains("\"-1\""));
    }

    #[test]
    fn waits_are_at_least_a_heartbeat() {
        assert_eq!((wait_ms("250"), wait_ms("60000")), (Ok(250), Ok(60_000)));
        let told = wait_ms("100").unwrap_err();
        assert!(told.contains("100 ms") && told.contains("every 250 ms"), "{told}");
        assert!(wait_ms("60001").unwrap_err().contains("--wait-for"));
        assert!(wait_ms("1s").unwrap_err().contains("\"1s\""));
    }
}
