//! The table of GGML types, and the types that candle does not have: blocks by hand, blocks that
//! llama.cpp's own reader dequantized, and the panels that hold them.

use super::super::nonlinear::{E2M1_DOUBLED, IQ4_VALUES};
use super::*;

const OWN: [GgmlType; 3] = [GgmlType::IQ4NL, GgmlType::IQ4XS, GgmlType::MXFP4];

/// The bytes of a text of hexadecimal digits.
fn bytes_of(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().as_chunks::<2>().0.iter();
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The blocks of a row, packed, and read from the panel.
fn from_panel(dtype: GgmlType, row: &[u8]) -> Vec<f32> {
    let columns = row.len() / dtype.block_bytes() * dtype.block_size();
    let format = WeightFormat::from_dtype(dtype).unwrap();
    let mut panel = vec![0; format.panel_bytes(columns)];
    pack(dtype, columns, &[row, row].concat(), &mut panel);
    for column in 0..columns {
        let lanes = [0, 1].map(|lane| weight(format, &panel, column, lane).to_bits());
        assert_eq!(lanes[0], lanes[1], "{dtype:?} {column}");
    }
    (0..columns).map(|column| weight(format, &panel, column, 1)).collect()
}

#[test]
fn types_have_the_numbers_names_and_blocks_of_ggml() {
    for (dtype, number, name, block) in [
        (GgmlType::F32, 0, "f32", [1, 4]),
        (GgmlType::Q4K, 12, "q4_k", [256, 144]),
        (GgmlType::IQ4NL, 20, "iq4_nl", [32, 18]),
        (GgmlType::IQ4XS, 23, "iq4_xs", [256, 136]),
        (GgmlType::BF16, 30, "bf16", [1, 2]),
        (GgmlType::MXFP4, 39, "mxfp4", [32, 17]),
    ] {
        assert_eq!(GgmlType::from_number(number), Some(dtype));
        assert_eq!((dtype.number(), dtype.name()), (number, name));
        assert_eq!([dtype.block_size(), dtype.block_bytes()], block, "{name}");
    }
    assert_eq!(GgmlType::from_number(4), None, "Q4_2 was removed");
    let numbers: Vec<u32> = (0..50).filter(|n| GgmlType::from_number(*n).is_some()).collect();
    let candles = [0, 1, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 30];
    for number in numbers {
        let dtype = GgmlType::from_number(number).unwrap();
        assert_eq!(dtype.candle().is_some(), candles.contains(&number), "{dtype:?}");
        let Some(candle) = dtype.candle() else { continue };
        let candle_block = [candle.block_size(), candle.type_size()];
        assert_eq!([dtype.block_size(), dtype.block_bytes()], candle_block, "{dtype:?}");
        assert_eq!(GgmlType::from(candle), dtype);
    }
}

#[test]
fn blocks_by_hand_have_known_weights() {
    // Scale 0.5 in f16; the lower nibbles are the first half: 0, 15, then 8 fourteen times.
    let mut block = vec![0x00, 0x38, 0x70, 0x8f];
    block.extend([0x88; 14]);
    let weights = dequantize(GgmlType::IQ4NL, &block);
    assert_eq!(weights[..3], [-63.5, 56.5, 0.5]);
    assert_eq!(weights[16..18], [-5.0, 0.5]);
    // 2^(128 - 127) times 0, 6, and 0.5, 1 and -1 in E2M1.
    let mut block = vec![128, 0x10, 0x27];
    block.extend([0xaa; 14]);
    let weights = dequantize(GgmlType::MXFP4, &block);
    assert_eq!(weights[..3], [0.0, 12.0, -2.0]);
    assert_eq!(weights[16..19], [1.0, 2.0, -2.0]);
    // Scale 0.25; integer scales 31, -32 and 0 of the first three sub-blocks, -16 of the last; all
    // codes 0, but 15 in the third.
    let mut block = vec![0x00, 0x34, 0b0010_0011, 0b0100_0000, 0x0f, 0x00, 0x00, 0x00];
    block.extend([[0x00; 16], [0x00; 16], [0xff; 16]].as_flattened());
    block.extend([0; 80]);
    let weights = dequantize(GgmlType::IQ4XS, &block);
    assert_eq!(weights[..64], [[31.0 * -31.75; 32], [32.0 * 31.75; 32]].concat());
    assert_eq!(weights[64..96], [0.0; 32]);
    assert_eq!(weights[224..], [16.0 * 31.75; 32]);
}

/// The fixture has random blocks and what `gguf.quants.dequantize` of llama.cpp's gguf-py gives for
/// them, as bytes of f32.
#[test]
fn blocks_have_the_weights_that_ggml_gives_them() {
    let mut seen = Vec::new();
    for line in include_str!("../../fixtures/ggml_blocks.txt").lines() {
        let [name, block, weights] =
            line.split(' ').collect::<Vec<_>>().try_into().expect("a type, a block, its weights");
        let dtype = OWN.into_iter().find(|dtype| dtype.name() == name).unwrap();
        let (block, weights) = (bytes_of(block), bytes_of(weights));
        let ours: Vec<u8> =
            dequantize(dtype, &block).iter().flat_map(|weight| weight.to_le_bytes()).collect();
        assert_eq!(ours, weights, "{line}");
        seen.push(dtype);
    }
    assert!(OWN.iter().all(|dtype| seen.contains(dtype)) && seen.len() == 14);
}

#[test]
fn every_block_of_bits_reads_the_same_from_a_panel() {
    // Bytes of all values, with finite scales in f16.
    let bytes: Vec<u8> = numbers(8 * 136, 5).iter().map(|v| (v * 128.0) as i8 as u8).collect();
    for (dtype, scale_byte) in [(GgmlType::IQ4NL, 1), (GgmlType::IQ4XS, 1)] {
        let mut row = bytes[..8 * dtype.block_bytes()].to_vec();
        for block in row.chunks_mut(dtype.block_bytes()) {
            block[scale_byte] &= 0xbb;
        }
        assert_eq!(from_panel(dtype, &row), dequantize(dtype, &row), "{dtype:?}");
    }
    for dtype in dtypes() {
        let row = quantize(dtype, &numbers(512, 9));
        assert_eq!(from_panel(dtype, &row), dequantize(dtype, &row), "{dtype:?}");
    }
}

#[test]
fn panels_hold_mxfp4_exactly_unless_f16_cannot_hold_its_scale() {
    let codes: Vec<u8> = (0..16).map(|i| i | (15 - i) << 4).collect();
    for e in 0..=255u8 {
        let row = [&[e], codes.as_slice()].concat();
        let (panel, exact) = (from_panel(GgmlType::MXFP4, &row), dequantize(GgmlType::MXFP4, &row));
        match e {
            // Less than a rounding of multiples of 2^-24.
            0..=103 => {
                let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 0.5f32.powi(25);
                assert!(panel.iter().zip(&exact).all(near), "{e}: {panel:?}");
            }
            104..=146 => assert_eq!(panel, exact, "{e}"),
            _ => assert!(!panel.iter().any(|weight| weight.is_finite()), "{e}: {panel:?}"),
        }
        // What converters write for weights of zero.
        let zeros = [vec![e], vec![0; 16]].concat();
        assert!(e > 146 || from_panel(GgmlType::MXFP4, &zeros) == [0.0; 32], "{e}");
    }
}

#[test]
fn quantizers_take_the_nearest_values() {
    for (dtype, bound) in
        [(GgmlType::IQ4NL, 0.085), (GgmlType::IQ4XS, 0.085), (GgmlType::MXFP4, 0.2)]
    {
        let exact = numbers(4096, 7);
        let blocks = quantize(dtype, &exact);
        assert_eq!(blocks.len(), 4096 / dtype.block_size() * dtype.block_bytes());
        let weights = dequantize(dtype, &blocks);
        let wide: Vec<f64> = exact.iter().map(|v| f64::from(*v)).collect();
        let error = distance(&weights, &wide);
        assert!(error < bound, "{dtype:?}: {error}");
        assert_eq!(dequantize(dtype, &quantize(dtype, &[0.0; 256])), [0.0; 256]);
    }
    // A block of values times a scale is kept: the scale is that of its largest.
    let values = |table: [i8; 16], scale: f32| -> Vec<f32> {
        table.iter().chain(&table).map(|value| f32::from(*value) * scale).collect()
    };
    let block = values(IQ4_VALUES, 0.25);
    assert_eq!(dequantize(GgmlType::IQ4NL, &quantize(GgmlType::IQ4NL, &block)), block);
    let block = values(E2M1_DOUBLED, 0.125);
    assert_eq!(dequantize(GgmlType::MXFP4, &quantize(GgmlType::MXFP4, &block)), block);
    let sub_blocks = [-32.0, 31.0, 1.0, 7.0, 0.0, -3.0, 16.0, -30.0];
    let block = sub_blocks.map(|scale| values(IQ4_VALUES, scale / 64.0)).concat();
    assert_eq!(dequantize(GgmlType::IQ4XS, &quantize(GgmlType::IQ4XS, &block)), block);
}

#[test]
fn a_nan_weight_makes_its_output_nan() {
    let tiers = Isa::for_tests();
    let pool = Pool::new(1).unwrap();
    // A NaN with a payload as a weight or a scale, in the second super-block of 256.
    for (dtype, nan) in [
        (GgmlType::F32, vec![1, 0, 0xc0, 0x7f]),
        (GgmlType::F16, vec![1, 0x7e]),
        (GgmlType::BF16, vec![0xc1, 0x7f]),
        (GgmlType::Q8_0, vec![1, 0x7e]),
        (GgmlType::Q5_1, vec![1, 0x7e]),
        (GgmlType::IQ4XS, vec![1, 0x7e]),
    ] {
        let format = WeightFormat::from_dtype(dtype).unwrap();
        let mut rows = quantize(dtype, &numbers(16 * 768, 1));
        rows[256 / dtype.block_size() * dtype.block_bytes()..][..nan.len()].copy_from_slice(&nan);
        let mut arena = Arena::new(format.bytes(16, 768)).unwrap();
        pack(dtype, 768, &rows, arena.all_mut());
        let weights = PackedMatrix::new(format, [16, 768], arena.get(0..format.bytes(16, 768)));
        for rows in [1, 20] {
            let x = numbers(rows * 768, 2);
            for &isa in &tiers {
                for (i, out) in gemm_alone(&pool, isa, weights, &x).iter().enumerate() {
                    let name = isa.name();
                    assert_eq!(out.is_nan(), i % 16 == 0, "{name} {dtype:?} {rows} {i}: {out}");
                }
            }
        }
    }
}
