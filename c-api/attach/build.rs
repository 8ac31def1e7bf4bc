//! Gives the shared library its SONAME, and keeps it loaded while the other one may call it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libvgpu_perception_attach.so.0");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
