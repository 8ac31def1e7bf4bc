#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| vgpu_perception_fuzz::core_files(data));
