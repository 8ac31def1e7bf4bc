//! The 26 field lists of `lists.txt`: layouts of real revisions with every field of the object, not only those that a
//! reader wants, so that the rest of an object is filled with what such fields hold.

use std::sync::LazyLock;

use super::layout::{Layout, PteFormat, UserRoot, VadShape};

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Written by itself, since a reader looks for it or it belongs to what one looks for.
    Named,
    /// Nothing in a process at rest: locks, rundown protection, padding, what debuggers set.
    Zero,
    /// A list head: empty, or around some pool.
    List,
    /// A node of a list of all processes, besides the one that readers follow.
    Ring,
    /// A pointer into pool, or none.
    Pool,
    /// A pointer with a count of references in its low bits.
    Counted,
    /// The root of a tree that is not the one of address descriptors.
    Root,
    /// A number of 64 bits.
    Counter,
    /// Time since the start, in units of 100 ns.
    Uptime,
    /// A size in whole pages.
    Bytes,
    /// A number of 32 bits.
    Word,
    /// A number of up to 16 bits.
    Small,
    /// A handle.
    Handle,
    /// The number of another process.
    Owner,
    /// A page of the user half.
    User,
    /// The last address of the user half.
    Highest,
    /// The entry that maps the process's top table.
    Pte,
    /// A name with a path, in pool.
    Audit,
    /// How many nodes the tree of descriptors has.
    Nodes,
    /// A lock with an event in it, whose list is its own.
    Mutex,
    /// The working set: numbers, lists, pointers.
    WorkingSet,
    /// Something else of several words.
    Mixed,
}

/// A field of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its first byte.
    pub at: u32,
    /// Its length in bytes.
    pub bytes: u32,
    /// What it holds.
    pub holds: Holds,
}

static LISTS: LazyLock<Vec<Layout>> = LazyLock::new(|| {
    let text: &'static str = include_str!("lists.txt");
    text.split("\nlist ").skip(1).map(parse).collect()
});

impl Layout {
    /// The layouts of the 26 revisions of which every field is known, oldest first.
    #[must_use]
    pub fn listed() -> &'static [Self] {
        &LISTS
    }
}

fn hex(text: &str) -> u32 {
    u32::from_str_radix(text, 16).expect("the lists have hexadecimal numbers")
}

fn parse(list: &'static str) -> Layout {
    let (head, body) = list.split_once('\n').expect("a list has a head");
    let mut words = head.splitn(6, ' ');
    let mut word = || words.next().expect("a head has six parts");
    let version: Vec<u32> = word().split('.').map(|part| part.parse().expect("a version")).collect();
    let (_, kprocess, _, size, name) = (word(), hex(word()), word(), hex(word()), word());
    let fields: Vec<(&str, Listed)> = body
        .split([',', '\n'])
        .map(str::trim)
        .filter(|field| !field.is_empty())
        .map(|field| {
            let (place, holds) = field.split_once(' ').expect("a field has a place and a kind");
            let (at, bytes) = place.split_once('+').expect("a place has a length");
            (holds, Listed { at: hex(at), bytes: hex(bytes), holds: kind(holds) })
        })
        .collect();
    let optional = |name: &str| fields.iter().find(|(holds, _)| *holds == name).map(|(_, field)| field.at);
    let at = |name: &str| optional(name).unwrap_or_else(|| panic!("the list has no {name}"));
    let build = version[2];
    Layout {
        name,
        major: version[0],
        minor: version[1],
        build,
        kprocess,
        size,
        directory_table_base: at("table"),
        user_root: optional("user_table").map_or(UserRoot::Absent, UserRoot::Always),
        pid: at("pid"),
        links: at("links"),
        create_time: at("created"),
        peb: at("peb"),
        image_name: at("name"),
        exit_status: at("status"),
        exit_time: at("ended"),
        vad_root: at("tree"),
        vad_hint: optional("hint").filter(|_| VadShape::of(build) == VadShape::Win81),
        section_base: at("section"),
        ppid: at("parent"),
        wow64: at("wow"),
        thread_list: at("thread_list"),
        active_threads: at("threads"),
        kernel_thread_list: at("kernel_threads"),
        object_table: at("handles"),
        header_size: Layout::header_size(build, kprocess),
        vad: VadShape::of(build),
        pte: PteFormat::of(build),
        fixed_self_map: build <= 14393,
        listed: Some(Vec::leak(fields.iter().map(|(_, field)| *field).collect())),
    }
}

fn kind(word: &str) -> Holds {
    match word {
        "zero" => Holds::Zero,
        "list" => Holds::List,
        "ring" => Holds::Ring,
        "pool" => Holds::Pool,
        "counted" => Holds::Counted,
        "root" => Holds::Root,
        "counter" => Holds::Counter,
        "uptime" => Holds::Uptime,
        "bytes" => Holds::Bytes,
        "word" => Holds::Word,
        "small" => Holds::Small,
        "handle" => Holds::Handle,
        "owner" => Holds::Owner,
        "user" => Holds::User,
        "highest" => Holds::Highest,
        "pte" => Holds::Pte,
        "audit" => Holds::Audit,
        "nodes" => Holds::Nodes,
        "mutex" => Holds::Mutex,
        "working_set" => Holds::WorkingSet,
        "mixed" => Holds::Mixed,
        "header" | "table" | "user_table" | "pid" | "links" | "created" | "ended" | "status" | "peb" | "section"
        | "parent" | "name" | "tree" | "hint" | "handles" | "wow" | "threads" | "thread_list" | "kernel_threads" => {
            Holds::Named
        }
        other => panic!("nobody knows what {other} is"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_whole_and_keep_the_known_distances() {
        assert_eq!(Layout::listed().len(), 26);
        for layout in Layout::listed() {
            let name = layout.name;
            let listed = layout.listed.unwrap();
            assert!(listed.windows(2).all(|pair| pair[0].at + pair[0].bytes <= pair[1].at), "{name}");
            let last = listed.last().unwrap();
            assert!(last.at + last.bytes <= layout.size && layout.size <= 0xbc0, "{name}");
            assert_eq!((layout.links, layout.directory_table_base), (layout.pid + 8, 0x28), "{name}");
            assert_eq!(layout.ppid, layout.section_base + 0x20, "{name}");
            assert!(listed.len() > 70, "{name}: {} fields", listed.len());
        }
        let late = Layout::listed().iter().find(|layout| layout.name == "8.1 19962").unwrap();
        assert_eq!((late.exit_status - 0xbc, late.exit_time), (0x640, 0x640));
        let late = Layout::listed().iter().find(|layout| layout.name == "10 1607 4770").unwrap();
        assert_eq!((late.user_root, late.exit_status), (UserRoot::Always(0x2c0), 0x62c));
    }
}
