//! `--quant`: which type each matrix has in memory and in written files.

use crate::error::{Error, Result};
use crate::kernel::GgmlType;
use crate::model::config::Config;
use crate::model::weights::TensorInfo;

/// The choice of `--quant`. It applies to matrices that are not quantized yet; `f32` also
/// dequantizes those that are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quant {
    /// 32-bit floating point.
    F32,
    /// bfloat16.
    Bf16,
    /// 8 bits, one scale per 32 weights.
    Q8_0,
    /// llama.cpp's mix: Q4_K, and Q6_K for the output matrix and about half of the value and down
    /// projections.
    Q4KM,
    /// 4 bits of a table of 16 values, one scale per 32 weights.
    Iq4Nl,
    /// The same with scales of 6 bits per 32 weights.
    Iq4Xs,
    /// 4-bit floats (E2M1), a power of two per 32 weights.
    Mxfp4,
}

impl Quant {
    /// The names that `--quant` takes.
    pub(crate) const NAMES: [&str; 7] =
        ["f32", "bf16", "q8_0", "q4_k_m", "iq4_nl", "iq4_xs", "mxfp4"];

    /// The quantization of this name, in upper or lower case.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn parse(name: &str) -> Result<Self> {
        match name.to_ascii_lowercase().as_str() {
            "f32" => Ok(Quant::F32),
            "bf16" => Ok(Quant::Bf16),
            "q8_0" => Ok(Quant::Q8_0),
            "q4_k_m" => Ok(Quant::Q4KM),
            "iq4_nl" => Ok(Quant::Iq4Nl),
            "iq4_xs" => Ok(Quant::Iq4Xs),
            "mxfp4" => Ok(Quant::Mxfp4),
            _ => Err(Error::unknown("quantization", name, Self::NAMES)),
        }
    }

    /// The name that [`Quant::parse`] takes.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The type of a matrix under this quantization.
    ///
    /// `Q4_K_M` follows llama.cpp's `llama_tensor_get_type`: rows whose length is not a multiple of
    /// 256 fall back from Q4_K to Q5_0, from Q6_K to Q8_0 and from IQ4_XS to IQ4_NL.
    fn dtype(self, name: &str, columns: usize, config: &Config) -> GgmlType {
        let (small, large) = match self {
            Quant::F32 => return GgmlType::F32,
            Quant::Bf16 => return GgmlType::BF16,
            Quant::Q8_0 => (GgmlType::Q8_0, GgmlType::Q8_0),
            Quant::Q4KM if columns.is_multiple_of(256) => (GgmlType::Q4K, GgmlType::Q6K),
            Quant::Q4KM => (GgmlType::Q5_0, GgmlType::Q8_0),
            Quant::Iq4Xs if columns.is_multiple_of(256) => (GgmlType::IQ4XS, GgmlType::IQ4XS),
            Quant::Iq4Nl | Quant::Iq4Xs => (GgmlType::IQ4NL, GgmlType::IQ4NL),
            Quant::Mxfp4 => (GgmlType::MXFP4, GgmlType::MXFP4),
        };
        let chosen = if name == output_name(config)
            || (is_sensitive(name) && gets_more_bits(name, config.layers))
        {
            large
        } else {
            small
        };
        if columns.is_multiple_of(chosen.block_size()) { chosen } else { GgmlType::F16 }
    }
}

fn output_name(config: &Config) -> &'static str {
    if config.tied { "model.embed_tokens.weight" } else { "lm_head.weight" }
}

fn is_sensitive(name: &str) -> bool {
    name.ends_with("v_proj.weight") || name.ends_with("down_proj.weight")
}

/// llama.cpp's `use_more_bits`: the first and last eighth of the layers, and every third between.
fn gets_more_bits(name: &str, layers: usize) -> bool {
    let layer: usize = name.split('.').nth(2).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

/// The type of a tensor in memory: f32 for vectors, the stored type for quantized matrices,
/// otherwise as `quant` says.
pub(crate) fn weight_dtype(
    name: &str,
    info: &TensorInfo,
    quant: Option<Quant>,
    config: &Config,
) -> GgmlType {
    let is_float = matches!(info.dtype, GgmlType::F32 | GgmlType::F16 | GgmlType::BF16);
    match quant {
        _ if info.shape.len() < 2 => GgmlType::F32,
        Some(quant) if is_float || quant == Quant::F32 => quant.dtype(name, info.shape[1], config),
        _ => info.dtype,
    }
}

/// The types of a model's matrices in one word: `q8_0`, `q4_k_m`, or all types joined by `+`, the
/// one with most bytes first.
pub(crate) fn mix_name(types: &[(GgmlType, u64)]) -> String {
    let mut sums: Vec<(GgmlType, u64)> = Vec::new();
    for (dtype, bytes) in types {
        match sums.iter_mut().find(|(known, _)| known == dtype) {
            Some((_, sum)) => *sum += bytes,
            None => sums.push((*dtype, *bytes)),
        }
    }
    sums.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let names: Vec<&str> = sums.iter().map(|(dtype, _)| dtype.name()).collect();
    match names.join("+").as_str() {
        "q4_k+q6_k" | "q6_k+q4_k" => "q4_k_m".into(),
        mix => mix.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q4_k_m_mixes_types_as_llama_cpp_does() {
        let config = Config::named("qwen3-0.6b").unwrap();
        let dtype = |name: &str, columns| {
            let info = TensorInfo { shape: vec![16, columns], dtype: GgmlType::F32 };
            weight_dtype(name, &info, Some(Quant::Q4KM), &config).name()
        };
        assert_eq!(dtype("model.embed_tokens.weight", 1024), "q6_k", "tied");
        assert_eq!(dtype("model.layers.0.self_attn.q_proj.weight", 1024), "q4_k");
        // 28 layers: 0..3 and 24.. have more bits, and 5, 8, 11, ...
        for (layer, name) in [
            (0, "q6_k"),
            (2, "q6_k"),
            (3, "q4_k"),
            (4, "q4_k"),
            (5, "q6_k"),
            (6, "q4_k"),
            (8, "q6_k"),
            (24, "q6_k"),
        ] {
            assert_eq!(
                dtype(&format!("model.layers.{layer}.self_attn.v_proj.weight"), 1024),
                name,
                "layer {layer}"
            );
            assert_eq!(
                dtype(&format!("model.layers.{layer}.mlp.down_proj.weight"), 3072),
                name,
                "layer {layer}"
            );
        }
        assert_eq!(dtype("model.layers.3.self_attn.q_proj.weight", 896), "q5_0");
        assert_eq!(dtype("model.layers.0.self_attn.v_proj.weight", 896), "q8_0");
        assert_eq!(dtype("model.layers.3.self_attn.q_proj.weight", 30), "f16");
    }

    #[test]
    fn other_quantizations_give_all_matrices_one_type_that_fits_their_rows() {
        let config = Config::named("qwen3-0.6b").unwrap();
        for (quant, columns, dtype) in [
            (Quant::Iq4Nl, 896, "iq4_nl"),
            (Quant::Iq4Xs, 1024, "iq4_xs"),
            (Quant::Iq4Xs, 896, "iq4_nl"),
            (Quant::Mxfp4, 896, "mxfp4"),
            (Quant::Mxfp4, 30, "f16"),
        ] {
            for name in ["model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight"] {
                let info = TensorInfo { shape: vec![16, columns], dtype: GgmlType::F32 };
                assert_eq!(weight_dtype(name, &info, Some(quant), &config).name(), dtype);
            }
        }
    }

    #[test]
    fn quantized_weights_keep_their_type_unless_f32_is_asked_for() {
        let config = Config::named("nano").unwrap();
        let info = TensorInfo { shape: vec![512, 256], dtype: GgmlType::Q5K };
        let dtype =
            |quant| weight_dtype("model.layers.0.mlp.up_proj.weight", &info, quant, &config);
        assert_eq!(dtype(None), GgmlType::Q5K);
        assert_eq!(dtype(Some(Quant::Q8_0)), GgmlType::Q5K);
        assert_eq!(dtype(Some(Quant::F32)), GgmlType::F32);
    }

    #[test]
    fn quantizations_parse_from_their_own_names() {
        for name in Quant::NAMES {
            assert_eq!(Quant::parse(name).unwrap().name(), name);
        }
        assert_eq!(Quant::parse("Q4_K_M").unwrap(), Quant::Q4KM);
        assert!(Quant::parse("q4_km").unwrap_err().to_string().contains("did you mean `q4_k_m`?"));
    }
}
