#!/bin/sh
# Builds the C library and installs it like other C libraries.
#
#   c-api/build.sh [--build | --install] [--form FORM] [--target TRIPLE] [--prefix DIR] [--libdir DIR] [--includedir DIR]
#                  [--mandir DIR] [--docdir DIR] [--destdir DIR]
#
# Without --build or --install it does both. --install needs no compiler: it copies what --build left in target/c-api.
# FORM is one of
#   heap     libvgpu_perception, shared and static: RAM files, handles on the heap (the default)
#   attach   libvgpu_perception_attach, shared and static: from a guest's name to its memory, for use beside the first
#   noheap   libvgpu_perception_noheap.a: no allocator and no libc but mem*; for user space
#   kernel   libvgpu_perception_kernel.a: the same without vector registers and without a red zone, for what a kernel or a
#            hypervisor links (x86_64-unknown-none; needs a compiler with -Zbuild-std: `.ci/toolchain run none c-api/build.sh ...`)
# DIRs are those of the running system: --destdir (or DESTDIR) is put before them. --libdir and the rest begin with the prefix
# where they are not absolute. Binutils are those of the target (TRIPLE's GNU name before their own), or $NM, $LD, $OBJCOPY, $AR.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
usage() {
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" | sed '$d' >&2
    exit 1
}

steps='build install' form=heap triple='' prefix=/usr/local libdir=lib includedir=include mandir=share/man docdir=''
destdir=${DESTDIR:-}
while [ $# -gt 0 ]; do
    case $1 in
        --build) steps=build; shift; continue ;;
        --install) steps=install; shift; continue ;;
        --form | --target | --prefix | --libdir | --includedir | --mandir | --docdir | --destdir) [ $# -gt 1 ] || usage ;;
        *) usage ;;
    esac
    case $1 in
        --form) form=$2 ;;
        --target) triple=$2 ;;
        --prefix) prefix=$2 ;;
        --libdir) libdir=$2 ;;
        --includedir) includedir=$2 ;;
        --mandir) mandir=$2 ;;
        --docdir) docdir=$2 ;;
        --destdir) destdir=$2 ;;
    esac
    shift 2
done
case $form in
    attach) name=vgpu_perception_attach profile=release features='' kinds=staticlib,cdylib std='' ;;
    heap) name=vgpu_perception profile=release features='' kinds=staticlib,cdylib std='' ;;
    noheap) name=vgpu_perception_noheap profile=no-heap features=--no-default-features kinds=staticlib std='' ;;
    kernel)
        name=vgpu_perception_kernel profile=no-heap features=--no-default-features kinds=staticlib std=-Zbuild-std=core
        triple=${triple:-x86_64-unknown-none}
        ;;
    *) usage ;;
esac
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
case $destdir in '' | /*) ;; *) destdir=$PWD/$destdir ;; esac

cd "$here/.."
target=${CARGO_TARGET_DIR:-target}
stage=$target/c-api/$form${triple:+-$triple}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
url=$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
package=vgpu-perception-capi built=vgpu_perception_c headers=$here/include
[ "$form" != attach ] || package=vgpu-perception-capi-attach built=vgpu_perception_attach headers=$here/attach/include

# The target's own binutils: x86_64's for a target without an operating system.
gnu=$(echo "$triple" | sed -e 's/-unknown-/-/' -e 's/^.*-none$//')
tool() {
    variable=$(eval "echo \"\${$2:-}\"")
    if [ -n "$variable" ]; then
        echo "$variable"
    elif [ -n "$gnu" ] && command -v "$gnu-$1" >/dev/null; then
        echo "$gnu-$1"
    else
        echo "$1"
    fi
}

# One object with nothing global but what the headers declare, and no group that a second Rust library could have taken away:
# another Rust library can be linked before or after it. A program may have a proc_list of its own.
seal() {
    archive=$1 to=$2
    nm=$(tool nm NM) ld=$(tool ld LD) objcopy=$(tool objcopy OBJCOPY) ar=$(tool ar AR)
    work=$(mktemp -d)
    "$nm" --defined-only --format=posix "$archive" 2>/dev/null |
        sed -n 's/^\(\(vgpup\|vgpux\|vgpua\|vmie\|gva\)_[a-z0-9_]*\|proc_list\) T .*/\1/p' | sort -u >"$work/exports"
    [ -s "$work/exports" ] || { echo "$archive has no function of the headers" >&2; exit 1; }
    roots=$(sed 's/^/-u /' "$work/exports" | tr '\n' ' ')
    # shellcheck disable=SC2086 # a list of options
    "$ld" -r --gc-sections --force-group-allocation $roots -o "$work/vgpu_perception.o" "$archive"
    # The compiler's own code beside the machine's: binutils with a plugin for it would look at nothing else.
    "$objcopy" --remove-section=.llvmbc --remove-section=.llvmcmd --keep-global-symbols="$work/exports" \
        --weaken-symbol=proc_list "$work/vgpu_perception.o"
    rm -f "$to"
    "$ar" rcs "$to" "$work/vgpu_perception.o"
    rm -r "$work"
}

# What is linked in, by whom it is licensed, and the texts.
licences() {
    echo "libvgpu_perception $version is licensed under MIT OR Apache-2.0. It contains these Rust packages, and the Rust standard"
    echo "library (MIT OR Apache-2.0, the Rust Project Developers):"
    echo
    # shellcheck disable=SC2086 # a list of options
    crates=$("$cargo" tree --locked -p $package -e normal,no-proc-macro $features --prefix none --format '{p}|{l}' |
        sed -e 's/ (\*)//' -e 's/ (proc-macro)//' -e 's/ ([^|]*)//' | sort -u | grep -v '^$')
    echo "$crates" | sed -e 's/^/  /' -e 's/|/: /'
    for text in LICENSE-MIT LICENSE-APACHE; do
        printf '\n==== %s of vgpu-perception ====\n\n' "$text"
        cat "$text"
    done
    echo "$crates" | while IFS='|' read -r crate _; do
        directory=$(echo "$crate" | sed 's/ v/-/')
        for text in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$directory"/LICENSE-MIT* \
            "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$directory"/LICENSE.md \
            "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$directory"/COPYRIGHT; do
            [ -e "$text" ] || continue
            printf '\n==== %s: %s ====\n\n' "$crate" "$(basename "$text")"
            cat "$text"
        done
    done
}

build() {
    cargo=${CARGO:-cargo}
    mkdir -p "$stage"
    # These kinds alone: where a Rust library is made beside them, link-time optimisation leaves objects that hold no machine code.
    # shellcheck disable=SC2086 # lists of options
    "$cargo" rustc --locked --profile $profile -p $package --lib --crate-type $kinds $features $std \
        ${triple:+--target "$triple"}
    out=$target${triple:+/$triple}/$profile
    seal "$out/lib$built.a" "$stage/lib$name.a"
    licences >"$stage/LICENSES"
    case $kinds in *cdylib*) cp "$out/lib$built.so" "$stage/lib$name.so" ;; esac
    if [ "$form" = heap ]; then
        if command -v python3 >/dev/null; then
            python3 "$here/man.py" "$version" >"$stage/vgpu_perception.3"
        else
            echo "no manual page: it is made by python3" >&2
        fi
    fi
}

below_prefix() {
    case $1 in /*) echo "$1" ;; *) echo "$prefix/$1" ;; esac
}

# The same with ${prefix} where it is below, for the pkg-config file.
by_prefix() {
    echo "$1" | sed "s|^$prefix/|\${prefix}/|"
}

pkg_config() {
    echo "prefix=$prefix"
    echo "libdir=$(by_prefix "$libdir")"
    echo "includedir=$(by_prefix "$includedir")"
    echo
    echo "Name: $name"
    echo "Description: Find a vgpu region in a guest's memory and read it"
    echo "URL: $url"
    echo "Version: $version"
    echo "Cflags: -I\${includedir}/vgpu-perception"
    echo "Libs: -L\${libdir} -l$name"
    [ "$form" != attach ] || echo "Requires: vgpu_perception = $version"
    case $kinds in *cdylib*) echo "Libs.private: -lpthread -ldl -lm" ;; esac
}

install_all() {
    [ -e "$stage/lib$name.a" ] || { echo "nothing to install in $stage: run $0 --build --form $form first" >&2; exit 1; }
    libdir=$(below_prefix "$libdir") includedir=$(below_prefix "$includedir") mandir=$(below_prefix "$mandir")
    docdir=$(below_prefix "${docdir:-share/doc/vgpu-perception}")
    install -d "$destdir$includedir/vgpu-perception" "$destdir$libdir/pkgconfig" "$destdir$docdir"
    install -m 644 "$headers"/*.h "$destdir$includedir/vgpu-perception/"
    install -m 644 "$stage/lib$name.a" "$destdir$libdir/"
    install -m 644 "$stage/LICENSES" "$destdir$docdir/LICENSES.$form"
    pkg_config >"$destdir$libdir/pkgconfig/$name.pc"
    if [ -e "$stage/lib$name.so" ]; then
        install -m 755 "$stage/lib$name.so" "$destdir$libdir/lib$name.so.$version"
        ln -sf "lib$name.so.$version" "$destdir$libdir/lib$name.so.0"
        ln -sf "lib$name.so.0" "$destdir$libdir/lib$name.so"
    fi
    if [ "$form" = heap ]; then
        if [ -e "$stage/vgpu_perception.3" ]; then
            install -d "$destdir$mandir/man3"
            install -m 644 "$stage/vgpu_perception.3" "$destdir$mandir/man3/"
        fi
    fi
    echo "installed under $destdir$prefix"
    if [ "$form" = heap ] && [ -z "$destdir" ]; then
        echo "programs find the shared library after: ldconfig (as root), or with LD_LIBRARY_PATH=$libdir"
    fi
}

for step in $steps; do
    case $step in
        build) build ;;
        install) install_all ;;
    esac
done
