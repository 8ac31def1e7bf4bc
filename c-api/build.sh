#!/bin/sh
# Builds the C library and places headers, libraries and a pkg-config file under a prefix.
#
#   c-api/build.sh --prefix DIR [--no-heap]
#
# --no-heap: the library without an allocator and without libc, as libvgpu_perception_noheap.a alone.
# Needs a Rust toolchain, a C compiler and binutils.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
prefix=
heap=yes
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?"--prefix needs a directory"}; shift 2 ;;
        --no-heap) heap=no; shift ;;
        *) echo "usage: $0 --prefix DIR [--no-heap]" >&2; exit 1 ;;
    esac
done
[ -n "$prefix" ] || { echo "usage: $0 --prefix DIR [--no-heap]" >&2; exit 1; }

cargo=${CARGO:-cargo}
cd "$here/.."
target=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
mkdir -p "$prefix/include" "$prefix/lib/pkgconfig"
prefix=$(cd "$prefix" && pwd)
for header in "$here"/include/*.h; do
    install -m 644 "$header" "$prefix/include/"
done

# One object with nothing global but what the headers declare: another Rust library can be linked beside it.
seal() {
    archive=$1 to=$2
    work=$(mktemp -d)
    nm --defined-only --format=posix "$archive" 2>/dev/null |
        sed -n 's/^\(\(vgpup\|vgpux\|vmie\|gva\)_[a-z0-9_]*\|proc_list\) T .*/\1/p' | sort -u > "$work/exports"
    roots=$(sed 's/^/-u /' "$work/exports" | tr '\n' ' ')
    # shellcheck disable=SC2086 # a list of options
    ld -r --gc-sections $roots -o "$work/vgpu_perception.o" "$archive"
    objcopy --keep-global-symbols="$work/exports" "$work/vgpu_perception.o"
    rm -f "$to"
    ar rcs "$to" "$work/vgpu_perception.o"
    rm -r "$work"
}

if [ "$heap" = no ]; then
    "$cargo" rustc --locked -p vgpu-perception-capi --lib --crate-type staticlib --profile no-heap --no-default-features
    seal "$target/no-heap/libvgpu_perception_c.a" "$prefix/lib/libvgpu_perception_noheap.a"
    exit 0
fi

# The two kinds alone: where a Rust library is made beside them, link-time optimisation leaves objects that hold no machine code.
"$cargo" rustc --locked --release -p vgpu-perception-capi --lib --crate-type staticlib,cdylib
seal "$target/release/libvgpu_perception_c.a" "$prefix/lib/libvgpu_perception.a"
install -m 755 "$target/release/libvgpu_perception_c.so" "$prefix/lib/libvgpu_perception.so.$version"
ln -sf "libvgpu_perception.so.$version" "$prefix/lib/libvgpu_perception.so.0"
ln -sf libvgpu_perception.so.0 "$prefix/lib/libvgpu_perception.so"
cat > "$prefix/lib/pkgconfig/vgpu_perception.pc" <<PC
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: vgpu_perception
Description: Find a vgpu region in a guest's memory and read it
Version: $version
Cflags: -I\${includedir}
Libs: -L\${libdir} -lvgpu_perception
Libs.private: -lpthread -ldl -lm
PC
echo "installed under $prefix"
