//! What was measured and where, on one line.

use crate::compare::Subject;
use crate::error::counted;
use crate::machine::CLIENT_CLASS;
use crate::record::NOT_REPORTED;

/// Model, quantization, engine, threads, kernel tier and machine: `` `synthetic:mini` in f32,
/// native engine, 2 threads, avx512 kernels, machine `amd-epyc-2cpu-1f3a90c2` ``; of a server
/// model, program, address and the client's machine. Not escaped.
pub(crate) fn subject_line(subject: &Subject) -> String {
    let Subject { model, settings, machine } = subject;
    let code = |text: &str| format!("`{}`", text.replace('`', "'"));
    if let Some(server) = &settings.server {
        let client = machine.facts.get(CLIENT_CLASS).unwrap_or(&machine.class);
        let (program, url) = (server.program(), code(&server.url));
        return format!(
            "{} on {program} at {url}, client machine {}",
            code(&model.spec),
            code(client)
        );
    }
    let mut parts = vec![match model.quant.as_str() {
        "" => code(&model.spec),
        quant => format!("{} in {quant}", code(&model.spec)),
    }];
    let device =
        Some(settings.device.as_str()).filter(|device| !["", "cpu", NOT_REPORTED].contains(device));
    let device = device.map_or(String::new(), |device| format!(" on {device}"));
    parts.push(format!("{} engine{device}", settings.engine));
    if settings.threads > 0 {
        parts.push(counted(settings.threads, "thread"));
    }
    parts.extend(model.isa.as_ref().map(|isa| format!("{isa} kernels")));
    if !machine.class.is_empty() {
        parts.push(format!("machine {}", code(&machine.class)));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_left_out() {
        let mut subject = Subject::default();
        subject.model.spec = "m`.gguf".into();
        (subject.settings.engine, subject.settings.threads) = ("native".into(), 1);
        assert_eq!(subject_line(&subject), "`m'.gguf`, native engine, 1 thread");
        (subject.model.quant, subject.model.isa) = ("q8_0".into(), Some("avx512".into()));
        (subject.settings.device, subject.machine.class) = ("cuda:0".into(), "a-1".into());
        assert_eq!(
            subject_line(&subject),
            "`m'.gguf` in q8_0, native engine on cuda:0, 1 thread, avx512 kernels, machine `a-1`"
        );
    }
}
