//! scratch
use candlemark::engine::*;
use candlemark::model::*;
use candlemark::settings::Generation;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = std::time::Instant::now();
    let o = open(&a[1], 42, None, &mut ()).unwrap();
    let q = candlemark::model::weights::Quant::parse(&a[2]).ok();
    let e = EngineKind::parse(&a[3]).unwrap();
    let mut d = load(&o, e, q, &candle_core::Device::Cpu).unwrap();
    println!(
        "load {:?} {}",
        t.elapsed(),
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join(" ")
    );
    let p: usize = a[4].parse().unwrap();
    let n: usize = a[5].parse().unwrap();
    let s = Generation::default();
    for b in a[6].split(',').map(|b| b.parse::<usize>().unwrap()) {
        let prompts: Vec<Vec<u32>> = (0..b)
            .map(|s| (0..p).map(|i| ((i * 7919 + s * 31 + 13) % 3000) as u32).collect())
            .collect();
        for _ in 0..3 {
            let g = generate(
                d.as_mut(),
                &Request {
                    prompts: &prompts,
                    new_tokens: n,
                    stops: &[],
                    sampling: &s,
                    injection: None,
                },
            )
            .unwrap();
            let dec: f64 = g.steps.iter().map(|d| d.as_secs_f64()).sum();
            println!(
                "b{b} prefill {:.1} tok/s ({:.1} ms) decode {:.1} tok/s step {:.2} ms",
                (b * p) as f64 / g.prefill.as_secs_f64(),
                g.prefill.as_secs_f64() * 1e3,
                (b * (n - 1)) as f64 / dec,
                dec / (n - 1) as f64 * 1e3
            );
        }
    }
    println!(
        "{}",
        std::fs::read_to_string("/proc/self/status")
            .unwrap()
            .lines()
            .filter(|l| l.starts_with("VmHWM") || l.starts_with("VmRSS"))
            .collect::<Vec<_>>()
            .join(" ")
    );
}
