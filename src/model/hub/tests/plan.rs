//! The choice of files.

use super::*;
use crate::model::hub::plan::WEIGHT_FILES;

#[test]
fn a_quantization_selects_its_file_or_its_shards() {
    let names = [
        "BF16/m-BF16-00001-of-00002.gguf",
        "BF16/m-BF16-00002-of-00002.gguf",
        "m-Q4_K.gguf",
        "m-Q4_K_M.gguf",
        "m-UD-Q4_K_XL.gguf",
        "m-IQ2_M-00002-of-00002.gguf",
        "m.Q6_K.gguf",
        "m.i1-Q6_K.gguf",
        "mmproj-F16.gguf",
        "q8_0/m.gguf",
    ];
    let names = names.map(String::from);
    let all = "`BF16/m-BF16.gguf`, `m-IQ2_M.gguf`, `m-Q4_K.gguf`, `m-Q4_K_M.gguf`, \
               `m-UD-Q4_K_XL.gguf`, `m.Q6_K.gguf`, `m.i1-Q6_K.gguf`, `q8_0/m.gguf`";
    for (file, expected) in [
        ("Q8_0", Ok(&["q8_0/m.gguf"][..])),
        ("q4_k", Ok(&["m-Q4_K.gguf"][..])),
        ("Q4_K_M", Ok(&["m-Q4_K_M.gguf"][..])),
        ("UD-Q4_K_XL", Ok(&["m-UD-Q4_K_XL.gguf"][..])),
        ("bf16", Ok(&["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"][..])),
        (
            "BF16/m-BF16-00002-of-00002.gguf",
            Ok(&["BF16/m-BF16-00001-of-00002.gguf", "BF16/m-BF16-00002-of-00002.gguf"][..]),
        ),
        (
            "Q6_K",
            Err(
                "`owner/name` holds several gguf files; pick one, as in `owner/name:m.Q6_K.gguf`; \
                 they are `m.Q6_K.gguf`, `m.i1-Q6_K.gguf`"
                    .to_owned(),
            ),
        ),
        ("Q5_0", Err(format!("no `Q5_0` in `owner/name` at `main`; its gguf files are {all}"))),
        (
            "IQ2_M",
            Err("no `m-IQ2_M-00001-of-00002.gguf` in `owner/name` at `main`; nearest are \
                 `m-IQ2_M-00002-of-00002.gguf`, `m-Q4_K.gguf`, `m-Q4_K_M.gguf`, \
                 `m-UD-Q4_K_XL.gguf`, `m.Q6_K.gguf`"
                .to_owned()),
        ),
    ] {
        let plan = plan(&spec(&format!("owner/name:{file}")), &names);
        let files = plan.map(|plan| plan.files).map_err(|error| error.to_string());
        assert_eq!(files, expected.map(|files| files.iter().map(|f| (*f).into()).collect()));
    }
    let Err(several) = plan(&spec("owner/name"), &names) else { panic!("a choice was made") };
    let start = "`owner/name` holds several gguf files; pick one, as in \
                 `owner/name:BF16/m-BF16-00001-of-00002.gguf`";
    assert_eq!(several.to_string(), format!("{start}; they are {all}"));
}

#[test]
fn a_single_file_goes_before_a_stale_index() {
    let names =
        ["config.json", "tokenizer.json", WEIGHT_FILES[0], WEIGHT_FILES[1]].map(String::from);
    let plan = plan(&spec(REPO), &names).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(plan.files, ["config.json", "tokenizer.json", "model.safetensors"]);
}
