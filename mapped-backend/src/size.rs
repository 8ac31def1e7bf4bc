//! Sizes in messages.

/// A number of bytes as people say it.
#[must_use]
pub fn bytes(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.into_iter().find(|(_, shift)| bytes >> shift > 0) {
        Some((unit, shift)) if bytes.is_multiple_of(1 << shift) => format!("{} {unit}", bytes >> shift),
        Some((unit, shift)) => {
            let hundredths = (u128::from(bytes) * 100) >> shift;
            format!("{}.{:02} {unit}", hundredths / 100, hundredths % 100)
        }
        None => format!("{bytes} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_as_people_say_them() {
        for (number, text) in
            [(3 << 30, "3 GiB"), (0xb000_0000, "2.75 GiB"), (100, "100 bytes"), (u64::MAX, "16777215.99 TiB")]
        {
            assert_eq!(bytes(number), text);
        }
    }
}
