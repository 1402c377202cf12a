//! The class of a machine: the fields that two machines must share to be compared, their hash, and
//! its name. Pure: reads nothing from the system.

use std::collections::BTreeMap;
use std::env::consts;

use sha2::{Digest as _, Sha256};

use crate::files::hex;

use super::cpu::Cpu;

/// The fields read from the running machine; the others are known at compile time.
#[derive(Clone)]
pub(super) struct ClassInputs<'a> {
    pub(super) cpu: Cpu,
    pub(super) isa: String,
    pub(super) cpus_allowed: Option<usize>,
    pub(super) numa_nodes: Option<usize>,
    pub(super) hypervisor: Option<String>,
    pub(super) threads: usize,
    pub(super) device: &'a str,
}

impl ClassInputs<'_> {
    /// The fields of the class: what another CPU, another share of it, or another use of it
    /// changes.
    ///
    /// A field must not differ between two runs on one machine: a hash over measured MHz split one
    /// type of runner in two and caused 16 of 17 reported regressions (folo-rs/folo#429). Nor may
    /// it be of the build: a class that has the compiler in it hides what a new compiler changes.
    /// docs/gate.md gives the reason of each field.
    pub(super) fn fields(&self) -> BTreeMap<String, String> {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
        let number =
            |value: Option<usize>| value.map_or("unknown".into(), |number| number.to_string());
        let fields = [
            ("arch", consts::ARCH.to_string()),
            ("cpu_family", text(&self.cpu.family)),
            ("cpu_model", text(&self.cpu.model)),
            ("cpu_name", text(&self.cpu.name)),
            ("cpu_vendor", text(&self.cpu.vendor)),
            ("cpus_allowed", number(self.cpus_allowed)),
            ("device", self.device.to_string()),
            ("hypervisor", text(&self.hypervisor)),
            ("isa", self.isa.clone()),
            ("numa_nodes", number(self.numa_nodes)),
            ("os", consts::OS.to_string()),
            ("threads", self.threads.to_string()),
        ];
        fields.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
    }
}

/// SHA-256 of the fields as JSON with sorted keys and no spaces. Machines of one class are
/// comparable.
pub(crate) fn class_id(fields: &BTreeMap<String, String>) -> String {
    hex(&Sha256::digest(serde_json::to_vec(fields).expect("a map of strings is JSON")))
}

/// A readable name and the first digits of the class id: a valid folder name on every system.
pub(super) fn class_name(fields: &BTreeMap<String, String>) -> String {
    let field = |name: &str| fields.get(name).map_or("unknown", String::as_str);
    let name = match (field("cpu_name"), field("cpu_vendor")) {
        ("unknown", "unknown") => field("arch").to_string(),
        ("unknown", vendor) => format!("{} {vendor} {}", field("arch"), field("cpu_model")),
        (name, _) => name.to_string(),
    };
    format!("{}-{}cpu-{}", slug(&name), field("cpus_allowed"), &class_id(fields)[..8])
}

/// The name of a server's class: program, model and the first digits of the class id.
pub(super) fn server_class_name(fields: &BTreeMap<String, String>) -> String {
    let field = |name: &str| fields.get(name).map_or("unknown", String::as_str);
    let model = field("model").trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = slug(&format!("server {} {model}", field("server")));
    format!("{name}-{}", &class_id(fields)[..8])
}

/// A name as lower-case letters, digits and hyphens, without words that every CPU's name has.
fn slug(name: &str) -> String {
    // Enough for every name seen so far, and short enough for systems with short paths.
    const MAX_LENGTH: usize = 40;
    let name = name.to_lowercase().replace("(r)", " ").replace("(tm)", " ");
    let name = name.split('@').next().unwrap_or_default(); // The nominal clock follows.
    let words =
        name.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words.filter(|word| !["cpu", "core", "processor", "with"].contains(word)) {
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(word);
    }
    slug.truncate(MAX_LENGTH);
    slug.trim_end_matches('-').to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPUINFO: &str = "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n\
                           model name\t: AMD EPYC\nstepping\t: 1\ncpu MHz\t\t: 2596.118\nbogomips\t: 5192.23\n";

    fn inputs(cpuinfo: &str) -> ClassInputs<'static> {
        ClassInputs {
            cpu: Cpu::parse(cpuinfo),
            isa: "avx2 fma".into(),
            cpus_allowed: Some(2),
            numa_nodes: Some(1),
            hypervisor: Some("KVMKVMKVM".into()),
            threads: 2,
            device: "cpu",
        }
    }

    #[test]
    fn values_that_vary_on_one_machine_do_not_change_the_class() {
        let base = class_name(&inputs(CPUINFO).fields());
        for (old, new) in
            [("2596.118", "3100.000"), ("5192.23", "6200.00"), ("stepping\t: 1", "stepping\t: 2")]
        {
            assert_eq!(class_name(&inputs(&CPUINFO.replace(old, new)).fields()), base, "{new}");
        }
        // No host name, memory, load or kernel, and nothing of the build.
        let fields = inputs(CPUINFO).fields();
        let names: Vec<&str> = fields.keys().map(String::as_str).collect();
        assert_eq!(
            names.join(" "),
            "arch cpu_family cpu_model cpu_name cpu_vendor cpus_allowed device hypervisor isa \
             numa_nodes os threads"
        );
    }

    #[test]
    fn hardware_and_its_use_change_the_class() {
        let base = inputs(CPUINFO);
        for other in [
            inputs(&CPUINFO.replace("model\t\t: 2", "model\t\t: 17")),
            inputs(&CPUINFO.replace("AMD EPYC", "AMD EPYC 7763 64-Core Processor")),
            ClassInputs { isa: "avx2 fma avx512f".into(), ..base.clone() },
            ClassInputs { cpus_allowed: Some(4), ..base.clone() },
            ClassInputs { numa_nodes: Some(2), ..base.clone() },
            ClassInputs { hypervisor: Some("none".into()), ..base.clone() },
            ClassInputs { threads: 1, ..base.clone() },
            ClassInputs { device: "cuda:0 NVIDIA H200 driver 570.1", ..base.clone() },
        ] {
            assert_ne!(class_id(&other.fields()), class_id(&base.fields()), "{:?}", other.fields());
        }
    }

    #[test]
    fn the_class_id_is_the_hash_of_sorted_json() {
        let fields = BTreeMap::from([
            ("threads".to_string(), "2".to_string()),
            ("arch".into(), "x86_64".into()),
        ]);
        // printf '{"arch":"x86_64","threads":"2"}' | sha256sum
        assert_eq!(
            class_id(&fields),
            "1efca70d6b2b7a85ed3825501dd38b2d9891683fdeba548a7e0bea71d3ba173f"
        );
        assert_eq!(class_name(&fields), "x86-64-unknowncpu-1efca70d");
    }

    #[test]
    fn unknown_fields_say_so() {
        let nothing = ClassInputs {
            cpu: Cpu::default(),
            cpus_allowed: None,
            numa_nodes: None,
            hypervisor: None,
            ..inputs("")
        };
        let fields = nothing.fields();
        for name in ["cpu_vendor", "cpu_family", "cpu_model", "cpu_name"] {
            assert_eq!(fields[name], "unknown", "{name}");
        }
        for name in ["cpus_allowed", "numa_nodes", "hypervisor"] {
            assert_eq!(fields[name], "unknown", "{name}");
        }
    }

    #[test]
    fn a_class_is_named_after_the_cpu() {
        for (name, expected) in [
            ("AMD EPYC", "amd-epyc"),
            ("AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-64"),
            ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz", "intel-xeon-platinum-8370c"),
            ("13th Gen Intel(R) Core(TM) i7-13700K", "13th-gen-intel-i7-13700k"),
            ("Apple M2 Pro", "apple-m2-pro"),
            ("aarch64 0x41 0xd05+0xd0b", "aarch64-0x41-0xd05-0xd0b"),
            ("a/b\\c:*?\"<>|.. Ü", "a-b-c"),
            (
                "a name of words that goes on and on until nobody reads it",
                "a-name-of-words-that-goes-on-and-on-unti",
            ),
            ("", ""),
        ] {
            assert_eq!(slug(name), expected, "{name}");
        }
    }
}
