//! What a device is called: two of one name compute the same bits.

use std::collections::BTreeSet;
use std::fs;

use super::Device;

/// The model name of `device`, as the operating system tells it; `None` where it does
/// not. A machine with GPUs of several models has the names of all: which of them has a
/// number depends on the driver's settings.
pub(super) fn of(device: Device) -> Option<String> {
    match device {
        Device::Cpu => field(&fs::read_to_string("/proc/cpuinfo").ok()?, "model name"),
        Device::Cuda(_) => {
            let gpus = fs::read_dir("/proc/driver/nvidia/gpus").ok()?;
            let information =
                gpus.filter_map(|gpu| fs::read_to_string(gpu.ok()?.path().join("information")).ok());
            let names: BTreeSet<_> = information.filter_map(|text| field(&text, "Model")).collect();
            (!names.is_empty()).then(|| names.into_iter().collect::<Vec<_>>().join(" or "))
        }
    }
}

/// The value of the first line `name: value`.
fn field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_owned())
    });
    value.filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_from_what_the_system_lists() {
        let cpu =
            "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nprocessor\t: 1\nmodel name\t: AMD EPYC 9R14\n";
        assert_eq!(field(cpu, "model name").as_deref(), Some("AMD EPYC 9R14"));
        let gpu = "Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 0\n";
        assert_eq!(field(gpu, "Model").as_deref(), Some("NVIDIA H100 80GB HBM3"));
        assert_eq!(field("Model:\n", "Model"), None);
        assert_eq!(field("", "Model"), None);
    }
}
