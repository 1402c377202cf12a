//! The CPU: its name, the instruction sets that kernels choose from, and the hypervisor.

use std::fs;

use sysinfo::{CpuRefreshKind, RefreshKind, System};

/// The identity of a CPU; `None` where the system does not tell. MHz are measured and therefore
/// left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) vendor: Option<String>,
    pub(super) family: Option<String>,
    pub(super) model: Option<String>,
    pub(super) stepping: Option<String>,
    pub(super) name: Option<String>,
}

impl Cpu {
    /// The CPU of this machine.
    pub(super) fn here() -> Self {
        fs::read_to_string("/proc/cpuinfo")
            .map_or_else(|_| Cpu::without_proc(), |text| Cpu::parse(&text))
    }

    /// Parses `/proc/cpuinfo` of x86 or Arm. Arm has implementer, architecture, part, and a
    /// revision `rNpM` in two fields.
    pub(super) fn parse(text: &str) -> Self {
        let revision =
            || Some(format!("{}p{}", field(text, "CPU variant")?, field(text, "CPU revision")?));
        Cpu {
            vendor: field(text, "vendor_id").or_else(|| field(text, "CPU implementer")),
            family: field(text, "cpu family").or_else(|| field(text, "CPU architecture")),
            model: field(text, "model").or_else(|| field(text, "CPU part")),
            stepping: field(text, "stepping").or_else(revision),
            name: field(text, "model name"),
        }
    }

    fn without_proc() -> Self {
        let system =
            System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()))
                .ok();
        let cpu = system.as_ref().and_then(|system| system.cpus().first());
        let non_empty = |text: &str| Some(text.trim().to_string()).filter(|text| !text.is_empty());
        Cpu {
            vendor: cpu.and_then(|cpu| non_empty(cpu.vendor_id())),
            name: cpu.and_then(|cpu| non_empty(cpu.brand())),
            ..Cpu::default()
        }
    }
}

/// The distinct values of a field over all CPUs, in order, joined by `+`: chips with two kinds of
/// core have two.
pub(super) fn field(cpuinfo: &str, name: &str) -> Option<String> {
    let mut values: Vec<&str> = Vec::new();
    for (key, value) in cpuinfo.lines().filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if key.trim() == name && !value.is_empty() && !values.contains(&value) {
            values.push(value);
        }
    }
    (!values.is_empty()).then(|| values.join("+"))
}

/// The instruction sets of this machine that kernels choose from, detected as the kernels do. AMX
/// is read from `/proc/cpuinfo`, because stable Rust cannot detect it.
pub(super) fn isa(cpuinfo: &str) -> String {
    let mut found = detected();
    let flags = field(cpuinfo, "flags").unwrap_or_default();
    found.extend(
        ["amx_tile", "amx_int8", "amx_bf16"]
            .into_iter()
            .filter(|amx| flags.split(' ').any(|flag| flag == *amx)),
    );
    found.join(" ")
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Vec<&'static str> {
    let all = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("fma", std::is_x86_feature_detected!("fma")),
        ("f16c", std::is_x86_feature_detected!("f16c")),
        ("avx_vnni", std::is_x86_feature_detected!("avxvnni")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("avx512bw", std::is_x86_feature_detected!("avx512bw")),
        ("avx512vl", std::is_x86_feature_detected!("avx512vl")),
        ("avx512dq", std::is_x86_feature_detected!("avx512dq")),
        ("avx512_vnni", std::is_x86_feature_detected!("avx512vnni")),
        ("avx512_bf16", std::is_x86_feature_detected!("avx512bf16")),
    ];
    all.into_iter().filter_map(|(name, here)| here.then_some(name)).collect()
}

#[cfg(target_arch = "aarch64")]
fn detected() -> Vec<&'static str> {
    let all = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
        ("sve2", std::arch::is_aarch64_feature_detected!("sve2")),
    ];
    all.into_iter().filter_map(|(name, here)| here.then_some(name)).collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detected() -> Vec<&'static str> {
    Vec::new()
}

/// `none`, or the hypervisor's vendor string, such as `KVMKVMKVM`.
#[cfg(target_arch = "x86_64")]
pub(super) fn hypervisor() -> Option<String> {
    use std::arch::x86_64::__cpuid;
    // Intel and AMD reserve this bit and leaf 0x40000000, with a vendor of 12 characters, for
    // hypervisors.
    if __cpuid(1).ecx >> 31 == 0 {
        return Some("none".into());
    }
    let leaf = __cpuid(0x4000_0000);
    Some(vendor([leaf.ebx, leaf.ecx, leaf.edx]))
}

/// The hypervisor's name, such as `xen`; `None` if the system does not tell.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn hypervisor() -> Option<String> {
    fs::read_to_string("/sys/hypervisor/type").ok().map(|name| name.trim().into())
}

#[cfg(target_arch = "x86_64")]
fn vendor(registers: [u32; 3]) -> String {
    let bytes = registers.map(u32::to_le_bytes).concat();
    let name: String = bytes
        .iter()
        .map(|byte| *byte as char)
        .filter(|letter| (' '..='~').contains(letter))
        .collect();
    if name.trim().is_empty() { "yes, vendor unknown".into() } else { name.trim().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn x86_cpus_are_told_apart_by_family_model_and_stepping() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\
                    stepping\t: 1\ncpu MHz\t\t: 2596.118\nflags\t\t: fpu amx_tile avx2 amx_int8\n\n\
                    processor\t: 1\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC\n\
                    stepping\t: 1\ncpu MHz\t\t: 3100.000\n";
        let some = |text: &str| Some(text.to_string());
        assert_eq!(
            Cpu::parse(text),
            Cpu {
                vendor: some("AuthenticAMD"),
                family: some("26"),
                model: some("2"),
                stepping: some("1"),
                name: some("AMD EPYC"),
            }
        );
        assert!(isa(text).ends_with("amx_tile amx_int8"), "{}", isa(text));
    }

    #[test]
    fn arm_cpus_are_told_apart_by_part_and_revision() {
        let core = |part: &str| {
            format!(
                "processor\t: 0\nBogoMIPS\t: 50.00\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x3\n\
                 CPU part\t: {part}\nCPU revision\t: 1\n\n"
            )
        };
        let cpu = Cpu::parse(&(core("0xd05") + &core("0xd05") + &core("0xd0b")));
        assert_eq!(cpu.vendor.as_deref(), Some("0x41"));
        assert_eq!(cpu.family.as_deref(), Some("8"));
        assert_eq!(cpu.model.as_deref(), Some("0xd05+0xd0b"));
        assert_eq!(cpu.stepping.as_deref(), Some("0x3p1"));
        assert_eq!(cpu.name, None);
    }

    #[test]
    fn missing_fields_are_absent() {
        assert_eq!(Cpu::parse(""), Cpu::default());
        assert_eq!(Cpu::parse("model name\t:\nstepping\n"), Cpu::default());
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_hypervisor_has_a_vendor_string() {
        assert_eq!(vendor([1_263_359_563, 1_447_775_574, 77]), "KVMKVMKVM");
        assert_eq!(vendor([0, 0, 0]), "yes, vendor unknown");
    }
}
