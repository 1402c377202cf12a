//! The instruction sets that llama.cpp was compiled for; its safe binding does not expose them.

use std::ffi::CStr;
use std::sync::OnceLock;

/// The CPU features that llama.cpp's kernels use, as `llama_print_system_info` lists them.
pub fn llama_system_info() -> &'static str {
    static INFO: OnceLock<String> = OnceLock::new();
    INFO.get_or_init(|| {
        // SAFETY: the function takes nothing and returns a string that ends with a zero and is
        // valid until the next call. Only this thread calls it, once, inside `get_or_init`.
        let text = unsafe { CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
        text.to_string_lossy().into_owned()
    })
}
