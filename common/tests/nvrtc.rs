//! Every kernel compiles for every GPU that users have, without a GPU, and hot kernels spill nothing.
//!
//! Needs NVRTC: `make test` installs it (PyPI's nvidia-cuda-nvrtc).

#![allow(clippy::unwrap_used)] // a test that cannot go on has failed
#![allow(clippy::print_stderr)] // what each kernel takes

use common::device::cuda::{Float16, compile};
use common::kernels::sources;
use rayon::prelude::*;

/// A100; RTX 3090; RTX 4090 and L40S; H100; B200; RTX 5090.
const ARCHITECTURES: [u32; 6] = [80, 86, 89, 90, 100, 120];

#[test]
fn every_kernel_compiles_for_every_gpu_without_spills() {
    let Some(()) = tests::needs::nvrtc(common::device::cuda::find_compiler()) else { return };
    let all: Vec<_> = sources()
        .into_iter()
        .flat_map(|source| ARCHITECTURES.map(|architecture| (source, architecture, Float16::Bf16)))
        .chain(
            sources()
                .into_iter()
                .flat_map(|source| [80, 90].map(|architecture| (source, architecture, Float16::Fp16))),
        )
        .filter(|(source, architecture, _)| source.runs_on(*architecture))
        .collect();
    let reports: Vec<String> = all
        .par_iter()
        .map(|(source, architecture, float16)| {
            let compiled = compile(source, *architecture, *float16).unwrap_or_else(|error| panic!("{error}"));
            assert!(compiled.code.starts_with(b"\x7fELF"), "{}", source.name);
            assert!(!compiled.log.contains("are serialized"), "{}: {}", source.name, compiled.log);
            report(source.name, *architecture, &compiled.log)
        })
        .collect();
    reports.iter().for_each(|report| eprint!("{report}"));
    let spills: Vec<&str> =
        reports.iter().flat_map(|report| report.lines()).filter(|line| line.contains("spills")).collect();
    assert!(spills.is_empty(), "{spills:#?}");
}

/// Bytes that a kernel may spill. Of wide heads and of capped scores the backward kernels of attention need every
/// register there is, and a few loads and stores in a tile of products cost nothing to speak of.
fn may_spill(source: &str) -> u32 {
    let needs_all =
        source.starts_with("attention") && (source.contains("softcap") || source.ends_with("-256"));
    if needs_all { 32 } else { 0 }
}

/// Registers and spilled bytes of each kernel, a line each, from what ptxas says.
fn report(source: &str, architecture: u32, log: &str) -> String {
    let (mut report, mut kernel) = (String::new(), "");
    for line in log.lines() {
        if let Some(name) = line.split("Compiling entry function '").nth(1) {
            kernel = name.split('\'').next().unwrap_or("");
        }
        let before = |word: &str| {
            line.split(word).next()?.split([',', ' ']).rfind(|part| !part.is_empty())?.parse::<u32>().ok()
        };
        if let (true, Some(spilled @ 1..)) = (line.contains("spill stores"), before(" bytes spill stores")) {
            let says = if spilled > may_spill(source) { "spills" } else { "may spill" };
            report += &format!("sm_{architecture} {source} {kernel} {says} {spilled} bytes\n");
        }
        if let (true, Some(registers)) = (line.contains("Used "), before(" registers")) {
            report += &format!("sm_{architecture} {source} {kernel}: {registers} registers\n");
        }
    }
    assert!(!report.is_empty(), "ptxas reports registers of {source}");
    report
}
