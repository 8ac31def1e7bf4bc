#!/bin/sh
# Builds the Debian packages libvgpu-perception0 (the shared library) and libvgpu-perception-dev (headers, static libraries,
# pkg-config files, manual page) for this machine.
#
#   c-api/deb.sh [DIRECTORY]        DIRECTORY is target/debian where none is named
#
# Then, as root: apt install ./libvgpu-perception*.deb
# Needs what build.sh needs, dpkg-deb, and Python and git for the changelog. The form for kernels is in it where this
# compiler can build it.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=${1:-}
case $out in '' | /*) ;; *) out=$PWD/$out ;; esac
cd "$here/.."
target=${CARGO_TARGET_DIR:-target}
out=${out:-$PWD/$target/debian}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
url=$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
architecture=$(dpkg --print-architecture)
multiarch=$("${CC:-cc}" -print-multiarch)
# Whom to write to stands in one place: the owner's line of Cargo.toml.
maintainer=$(sed -n 's/^authors = \["\(.*\)"\]/\1/p' Cargo.toml | head -n 1)
revision=$version-1
libdir=lib/${multiarch:?"the C compiler names no multiarch directory"}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

rm -f "$out"/libvgpu-perception*.deb

"$here/build.sh" --prefix /usr --libdir "$libdir" --destdir "$work/all"
"$here/build.sh" --form noheap --prefix /usr --libdir "$libdir" --destdir "$work/all"
if [ -e "$target/c-api/kernel-x86_64-unknown-none/libvgpu_perception_kernel.a" ]; then
    "$here/build.sh" --install --form kernel --prefix /usr --libdir "$libdir" --destdir "$work/all"
fi

# package NAME SECTION DEPENDS SUMMARY TEXT
package() {
    root=$work/$1
    mkdir -p "$root/DEBIAN" "$root/usr/share/doc/$1"
    cp "$work/all/usr/share/doc/vgpu-perception/LICENSES.heap" "$root/usr/share/doc/$1/copyright"
    gzip -9n <CHANGELOG.md >"$root/usr/share/doc/$1/changelog.gz"
    python3 .ci/debian-changelog.py vgpu-perception | gzip -9n >"$root/usr/share/doc/$1/changelog.Debian.gz"
    {
        echo "Package: $1"
        echo "Source: vgpu-perception"
        echo "Version: $revision"
        echo "Architecture: $architecture"
        echo "Multi-Arch: same"
        echo "Maintainer: $maintainer"
        echo "Section: $2"
        echo "Priority: optional"
        echo "Depends: $3"
        echo "Installed-Size: $(du -sk "$root/usr" | cut -f 1)"
        echo "Homepage: $url"
        echo "Description: $4"
        # Paragraphs as Debian writes them: a space before each line, a dot for an empty one.
        printf '%s\n' "$5" "" \
            "A producer is a program inside of a virtual machine that publishes the screen, the cursor and the geometry in shared" \
            "memory. The library finds that memory from the host, in the guest's RAM, and reads it: it asks no hypervisor, writes" \
            "nothing, and any number of readers may do it at once." | fold -s -w 78 | sed -e 's/ *$//' -e 's/^$/./' -e 's/^/ /'
    } >"$root/DEBIAN/control"
    (cd "$root" && find usr -type f -exec md5sum {} + >DEBIAN/md5sums)
    mkdir -p "$out"
    dpkg-deb --root-owner-group --build "$root" "$out/$1_${revision}_$architecture.deb" >/dev/null
    echo "$out/$1_${revision}_$architecture.deb"
}

shared=libvgpu-perception0
mkdir -p "$work/$shared/usr/$libdir" "$work/$shared/DEBIAN"
mv "$work/all/usr/$libdir/libvgpu_perception.so.$version" "$work/all/usr/$libdir/libvgpu_perception.so.0" \
    "$work/$shared/usr/$libdir/"
chmod 644 "$work/$shared/usr/$libdir/libvgpu_perception.so.$version"
"${STRIP:-strip}" --strip-unneeded "$work/$shared/usr/$libdir/libvgpu_perception.so.$version"
echo "activate-noawait ldconfig" >"$work/$shared/DEBIAN/triggers"
echo "libvgpu_perception 0 $shared (>= $version)" >"$work/$shared/DEBIAN/shlibs"
package $shared libs "libc6 (>= 2.28), libgcc-s1" "reads what a capture program inside a VM publishes" \
    "Finds a vgpu region in a guest's memory and takes frames, cursor and geometry from it, read-only. The shared library."

dev=libvgpu-perception-dev
mkdir -p "$work/$dev"
rm -r "$work/all/usr/share/doc"
mkdir -p "$work/all/usr/share/doc"
mv "$work/all/usr" "$work/$dev/usr"
[ ! -e "$work/$dev/usr/share/man/man3/vgpu_perception.3" ] || gzip -9n "$work/$dev/usr/share/man/man3/vgpu_perception.3"
mkdir -p "$work/all/usr/share/doc/vgpu-perception"
cp "$target/c-api/heap/LICENSES" "$work/all/usr/share/doc/vgpu-perception/LICENSES.heap"
"${STRIP:-strip}" --strip-debug "$work/$dev/usr/$libdir"/*.a
mkdir -p "$work/$dev/usr/share/doc/$dev/examples"
cp c-api/examples/*.c "$work/$dev/usr/share/doc/$dev/examples/"
package $dev libdevel "$shared (= $revision)" "reads what a capture program inside a VM publishes (development)" \
    "Headers, static libraries (with and without a heap), pkg-config files and a manual page for libvgpu_perception."
