//! Devices by name: `cpu`, `cuda`, `cuda:1`, `metal`.

use candle_core::Device;

use crate::error::{Error, Result};

/// Opens the device of this name. There is no fallback to another.
///
/// # Errors
/// When the name is unknown, or the device is absent or not built in.
pub fn device(name: &str) -> Result<Device> {
    let (kind, number) = parse(name)?;
    match kind {
        "cuda" => Device::new_cuda(number).map_err(|error| unavailable(name, "cuda", &error)),
        "metal" => Device::new_metal(number).map_err(|error| unavailable(name, "metal", &error)),
        _ => Ok(Device::Cpu),
    }
}

/// Checks the name of a device. Leaves opening it to the worker that uses it.
///
/// # Errors
/// When the name is unknown, or the device is not built in.
pub(crate) fn check_device(name: &str) -> Result<()> {
    let (kind, _) = parse(name)?;
    let lacking = (kind == "cuda" && !cfg!(feature = "cuda"))
        || (kind == "metal" && !cfg!(feature = "metal"));
    if lacking { device(name).map(drop) } else { Ok(()) }
}

/// A known kind of device, and the device's number.
fn parse(name: &str) -> Result<(&str, usize)> {
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let number: usize = number
        .parse()
        .map_err(|_| Error::Usage(format!("`{number}` in device `{name}` is not a number")))?;
    let known = ["cpu", "cuda", "metal"];
    if !known.contains(&kind) {
        return Err(Error::unknown("device", kind, known));
    }
    Ok((kind, number))
}

fn unavailable(name: &str, feature: &str, error: &candle_core::Error) -> Error {
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    let is_built_in = match feature {
        "cuda" => cfg!(feature = "cuda"),
        _ => cfg!(feature = "metal"),
    };
    let build =
        if is_built_in { String::new() } else { format!("build with `--features {feature}`, or ") };
    Error::Usage(format!("no device `{name}` ({why}); {build}use `--device cpu`"))
}
