//! Energy of the CPU packages, from the RAPL counters of Intel and AMD in `/sys/class/powercap`.
//! They include other programs, and exclude memory, board and power supply.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

/// Where Linux exposes the counters.
pub(super) const POWERCAP: &str = "/sys/class/powercap";

/// Upper bound of a package's power. A counter that could wrap around twice at this power is
/// useless.
const MAX_PACKAGE_W: f64 = 600.0;

/// The energy counters of all CPU packages.
#[derive(Debug)]
pub(super) struct Packages(Vec<Package>);

#[derive(Debug)]
struct Package {
    counter: PathBuf,
    /// The counter wraps around after this value, in µJ.
    range: u64,
}

impl Packages {
    /// Finds the counters under `root`, [`POWERCAP`] or a copy of it, and reads each once.
    ///
    /// # Errors
    /// Why there is none, and what would help.
    pub(super) fn find(root: &Path) -> Result<Self, String> {
        if root == Path::new(POWERCAP) && !cfg!(target_os = "linux") {
            return Err(unsupported_system().into());
        }
        let mut zones: Vec<PathBuf> =
            fs::read_dir(root).into_iter().flatten().flatten().map(|zone| zone.path()).collect();
        zones.retain(|zone| is_package(zone));
        zones.sort();
        if zones.is_empty() {
            return Err(format!(
                "no energy counter of a CPU package in {}: a virtual machine, a container that \
                 hides it, or a kernel without the intel_rapl driver; measure on the host itself",
                root.display()
            ));
        }
        let packages = zones.into_iter().map(|zone| {
            let range = read_number(&zone.join("max_energy_range_uj"))?;
            Ok(Package { counter: zone.join("energy_uj"), range })
        });
        let packages = Packages(packages.collect::<Result<_, String>>()?);
        packages.read()?;
        Ok(packages)
    }

    /// Every counter in µJ.
    pub(super) fn read(&self) -> Result<Vec<u64>, String> {
        self.0.iter().map(|package| read_number(&package.counter)).collect()
    }

    /// What is measured.
    pub(super) fn scope(&self) -> String {
        match self.0.len() {
            1 => "1 CPU package".into(),
            several => format!("{several} CPU packages"),
        }
    }

    /// Joules between two readings, `elapsed` apart.
    ///
    /// # Errors
    /// When a counter did not move, left its range, or may have wrapped around twice.
    pub(super) fn joules(
        &self,
        before: &[u64],
        after: &[u64],
        elapsed: Duration,
    ) -> Result<f64, String> {
        let mut sum = 0.0;
        for ((package, &before), &after) in self.0.iter().zip(before).zip(after) {
            let range_j = package.range as f64 / 1e6;
            if elapsed.as_secs_f64() * MAX_PACKAGE_W > range_j {
                return Err(format!(
                    "the energy counter wraps around every {range_j:.0} J, in {:.0} s perhaps \
                     twice; measure a shorter region",
                    elapsed.as_secs_f64()
                ));
            }
            let spent = if before <= after {
                after - before
            } else {
                let wrapped =
                    package.range.checked_add(after).and_then(|end| end.checked_sub(before));
                wrapped.ok_or("an energy counter left its range")?
            };
            if spent == 0 {
                return Err(
                    "an energy counter does not move, as in some virtual machines; measure on the \
                     host itself"
                        .into(),
                );
            }
            sum += spent as f64 / 1e6;
        }
        Ok(sum)
    }
}

/// Whether a zone is a whole package: `intel-rapl:0`, named `package-0`. Not so its subzones (cores
/// or DRAM, `intel-rapl:0:0`), the whole board (`psys`), and the second interface to the same
/// package (`intel-rapl-mmio:0`).
fn is_package(zone: &Path) -> bool {
    let folder = zone.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let whole = folder.strip_prefix("intel-rapl:").is_some_and(|number| !number.contains(':'));
    let named = || fs::read_to_string(zone.join("name")).unwrap_or_default();
    whole && named().starts_with("package")
}

fn read_number(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| unreadable(path, &error))?;
    let value = text.trim();
    value.parse().map_err(|_| format!("{} contains `{value}`, not a number", path.display()))
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    let path = path.display();
    match error.kind() {
        // Since CVE-2020-8694: power shows what other users compute.
        io::ErrorKind::PermissionDenied => {
            format!("only root may read {path}; run as root, or allow reading it (`chmod a+r`)")
        }
        _ => format!("cannot read {path}: {error}"),
    }
}

/// Why there is no counter on a system other than Linux.
fn unsupported_system() -> &'static str {
    if cfg!(target_os = "macos") {
        "macOS reports energy only to root, through powermetrics, which is not supported; measure \
         energy on Linux"
    } else {
        "energy counters of CPUs are read on Linux only"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(root: &Path, folder: &str, name: &str, energy: &str) {
        let zone = root.join(folder);
        fs::create_dir(&zone).unwrap();
        for (file, text) in
            [("name", name), ("energy_uj", energy), ("max_energy_range_uj", "262143328850")]
        {
            fs::write(zone.join(file), format!("{text}\n")).unwrap();
        }
    }

    /// Two packages with the other zones of a server.
    fn server() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        zone(root.path(), "intel-rapl:0", "package-0", "1000000");
        zone(root.path(), "intel-rapl:0:0", "dram", "77");
        zone(root.path(), "intel-rapl:1", "package-1", "262143000000");
        zone(root.path(), "intel-rapl:2", "psys", "99");
        zone(root.path(), "intel-rapl-mmio:0", "package-0", "1000000");
        fs::create_dir(root.path().join("intel-rapl")).unwrap();
        root
    }

    #[test]
    fn packages_are_summed_without_their_subzones() {
        let root = server();
        let packages = Packages::find(root.path()).unwrap();
        assert_eq!(packages.scope(), "2 CPU packages");
        let before = packages.read().unwrap();
        assert_eq!(before, [1_000_000, 262_143_000_000]);
        fs::write(root.path().join("intel-rapl:0/energy_uj"), "31000000\n").unwrap();
        fs::write(root.path().join("intel-rapl:1/energy_uj"), "671150\n").unwrap();
        let after = packages.read().unwrap();
        // 30 J, and 0.328850 J up to the end of the range with 0.671150 J after it.
        assert_eq!(packages.joules(&before, &after, Duration::from_secs(2)), Ok(31.0));
    }

    #[test]
    fn an_implausible_counter_gives_no_energy() {
        let range = 65_532_610_987; // AMD's range: 109 s at 600 W.
        let packages = Packages(vec![Package { counter: PathBuf::new(), range }]);
        assert_eq!(packages.scope(), "1 CPU package");
        for (before, after, seconds, expected) in [
            (5, 5, 1, "does not move"),
            (range + 9, 2, 1, "left its range"),
            (5, 6, 110, "wraps around every 65533 J, in 110 s"),
        ] {
            let answer = packages.joules(&[before], &[after], Duration::from_secs(seconds));
            assert!(answer.clone().is_err_and(|why| why.contains(expected)), "{answer:?}");
        }
        assert_eq!(packages.joules(&[5], &[1_000_005], Duration::from_secs(109)), Ok(1.0));
    }

    #[test]
    fn an_unreadable_counter_says_why() {
        let none = tempfile::tempdir().unwrap();
        for root in [none.path(), &none.path().join("missing")] {
            let why = Packages::find(root).unwrap_err();
            assert!(why.starts_with("no energy counter of a CPU package in /"), "{why}");
            assert!(why.ends_with("measure on the host itself"), "{why}");
        }
        let root = server();
        let counter = root.path().join("intel-rapl:1/energy_uj");
        fs::write(&counter, "many").unwrap();
        let why = Packages::find(root.path()).unwrap_err();
        assert_eq!(why, format!("{} contains `many`, not a number", counter.display()));
        fs::remove_file(&counter).unwrap();
        let why = Packages::find(root.path()).unwrap_err();
        assert!(why.starts_with(&format!("cannot read {}: ", counter.display())), "{why}");
        assert_eq!(
            unreadable(Path::new("/x/energy_uj"), &io::ErrorKind::PermissionDenied.into()),
            "only root may read /x/energy_uj; run as root, or allow reading it (`chmod a+r`)"
        );
    }
}
