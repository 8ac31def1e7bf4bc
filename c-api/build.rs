//! Gives the shared library its SONAME, and keeps it loaded: threads that used it have something to give up when they
//! end.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvgpu_perception.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
