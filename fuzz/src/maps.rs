//! Segment maps: what is taken is in order, apart, and inside 64 bits; what is typed is refused with its text or taken.

use arbitrary::{Result, Unstructured};
use vgpu_perception::Gpa;
use vgpu_perception_mapped::{HighBase, Machine, MachineOptions, Segment, SegmentMap, parse_number};

/// See [`crate`].
pub fn maps(data: &[u8]) {
    let _ = run(&mut Unstructured::new(data));
}

fn run(u: &mut Unstructured<'_>) -> Result<()> {
    let mut segments = Vec::new();
    for _ in 0..u.int_in_range(0..=6)? {
        let mask = if u.arbitrary()? { !0xfff } else { u64::MAX };
        segments.push(Segment {
            gpa: Gpa::new(u.arbitrary::<u64>()? & mask),
            len: u.arbitrary::<u64>()? >> u.int_in_range(0..=60)? & mask,
            file: u.int_in_range(0..=2)?,
            offset: u.arbitrary::<u64>()? >> u.int_in_range(0..=60)? & mask,
        });
    }
    if let Ok(map) = SegmentMap::new(segments.iter().copied()) {
        check(&map);
        assert_eq!(map.segments().len(), segments.len(), "no segment is lost");
    }
    let machine = *u.choose(&[Machine::Pc, Machine::Q35, Machine::Microvm, Machine::CloudHypervisor])?;
    let options = MachineOptions {
        max_ram_below_4g: u.arbitrary()?,
        high_base: if u.arbitrary()? { HighBase::Gib4 } else { HighBase::Tib1 },
    };
    let files: Vec<u64> = (0..u.int_in_range(0..=3)?)
        .map(|_| Ok(u.arbitrary::<u64>()? >> u.int_in_range(0..=40)?))
        .collect::<Result<_>>()?;
    if let Ok(map) = machine.map(&files, options) {
        check(&map);
        let total = files.iter().copied().fold(0_u64, u64::saturating_add);
        assert_eq!(map.ram_bytes(), total, "all of the files is RAM");
    }
    let text = u.arbitrary::<&str>()?;
    let _ = parse_number(text);
    let _ = text.parse::<Machine>();
    match SegmentMap::parse(text.split(',')) {
        Ok(map) => check(&map),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    Ok(())
}

fn check(map: &SegmentMap) {
    let mut end = 0;
    for segment in map.segments() {
        assert!(segment.len > 0 && segment.len % 4096 == 0 && segment.gpa.get() % 4096 == 0);
        assert!(segment.gpa.get() >= end, "{segment} overlaps the one before");
        end = segment.gpa.get().checked_add(segment.len).expect("it ends within 64 bits");
        segment.offset.checked_add(segment.len).expect("its file does too");
    }
}
