//! What others say of a guest: monitors' objects, flat views, mappings, command lines, answers of an API.

use vgpu_perception_host::attach::cmdline::{QemuLine, words};
use vgpu_perception_host::attach::json_stream::{JsonStream, MAX_OBJECT};
use vgpu_perception_host::attach::layout::{MAX_LAYOUTS, layouts};
use vgpu_perception_host::attach::{Vmm, cloud_hypervisor, flat_view, maps};

/// A stream in pieces: whole objects come out, none longer than allowed, and how it is cut changes nothing.
pub fn monitor(data: &[u8]) {
    let Some((step, stream)) = data.split_first() else { return };
    let whole = objects(stream, stream.len().max(1));
    let pieces = objects(stream, usize::from(*step).max(1));
    assert_eq!(whole, pieces, "how a stream is cut changes nothing");
    for object in &whole.0 {
        assert!(object.first() == Some(&b'{') && object.len() <= MAX_OBJECT);
        let text = String::from_utf8_lossy(object);
        let _ = flat_view::host_address(&text);
    }
    let text = String::from_utf8_lossy(stream);
    let _ = flat_view::host_address(&text);
    let stretches = flat_view::ram(&text, |name| !name.starts_with("not"));
    assert!(stretches.len() <= flat_view::MAX_STRETCHES);
    for stretch in &stretches {
        assert!(stretch.len > 0 && stretch.gpa.get().checked_add(stretch.len).is_some_and(|end| end <= 1 << 52));
        assert!(stretch.offset.checked_add(stretch.len).is_some());
    }
}

fn objects(stream: &[u8], step: usize) -> (Vec<Vec<u8>>, bool) {
    let mut json = JsonStream::default();
    let mut found = Vec::new();
    for some in stream.chunks(step) {
        json.push(some);
        loop {
            match json.next_object() {
                Ok(Some(object)) => found.push(object),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
    }
    (found, false)
}

/// Mappings and the words of a command line, apart and as what a layout is made of.
pub fn process(data: &[u8]) {
    let (line, text) = match data.windows(2).position(|two| two == b"\n\n") {
        Some(at) => (&data[..at], &data[at + 2..]),
        None => (data, data),
    };
    let text = String::from_utf8_lossy(text);
    let areas = maps::parse(&text);
    for (lower, upper) in areas.iter().zip(areas.iter().skip(1)) {
        assert!(lower.start < lower.end && lower.end <= upper.start, "they ascend");
    }
    let joined = maps::joined(&areas);
    assert!(joined.len() <= areas.len());
    for area in &areas {
        assert!(maps::covering(&joined, &(area.start..area.end)).is_some(), "joined areas cover what they are made of");
        assert!(maps::of_len(&areas, area.len()).iter().any(|one| one.start == area.start));
    }
    let words = words(line);
    let _ = QemuLine::parse(&words).ram_backends();
    for vmm in [Vmm::Qemu, Vmm::CloudHypervisor, Vmm::Firecracker, Vmm::Crosvm] {
        let Ok(found) = layouts(vmm, &words, &areas) else { continue };
        assert!(found.len() <= MAX_LAYOUTS);
        for piece in found.iter().flat_map(|layout| &layout.pieces) {
            let range = piece.host_addr..piece.host_addr + piece.len;
            assert!(maps::covering(&joined, &range).is_some(), "a piece lies in a mapping: {piece}");
        }
    }
}

/// An answer over HTTP, whole and cut, and what it says of zones.
pub fn api(data: &[u8]) {
    if let Ok(Some(body)) = cloud_hypervisor::answer(data) {
        assert!(body.len() <= cloud_hypervisor::MAX_ANSWER && body.len() <= data.len());
        if let Ok(info) = serde_json::from_slice(&body)
            && let Ok(zones) = cloud_hypervisor::zones(&info)
        {
            assert!(!zones.is_empty() && zones.len() <= 64 && !zones.contains(&0));
        }
    }
    if let Ok(info) = serde_json::from_slice(data) {
        let _ = cloud_hypervisor::zones(&info);
    }
}
