//! French and Korean names of metrics and units; the English names are in the metric table.

/// Metric, French, Korean.
#[rustfmt::skip]
const METRICS: &[(&str, &str, &str)] = &[
    ("decode_tok_s", "décodage", "디코드 속도"),
    ("decode_tok_s_aggregate", "décodage, lot entier", "디코드 속도(배치 전체)"),
    ("ttft_s", "délai du premier token (TTFT)", "첫 토큰까지 시간(TTFT)"),
    ("prefill_tok_s", "préremplissage", "프리필 속도"),
    ("peak_rss_bytes", "pic de mémoire", "최대 메모리"),
    ("prefill_s", "durée du préremplissage", "프리필 시간"),
    ("tpot_s", "temps par token généré", "출력 토큰당 시간"),
    ("e2e_s", "durée totale", "전체 소요 시간"),
    ("tokenize_s", "tokenisation", "토큰화"),
    ("step_cv", "variation entre les pas", "스텝 변동 계수"),
    ("stalls", "pas bloqués", "멈칫한 스텝 수"),
    ("load_s", "chargement", "모델 로딩"),
    ("cold_ttft_s", "premier token à froid", "콜드 스타트 TTFT"),
    ("rss_after_load_bytes", "mémoire après chargement", "로딩 직후 메모리"),
    ("peak_delta_bytes", "mémoire ajoutée par l’exécution", "실행 중 추가 메모리"),
    ("peak_device_bytes", "pic de mémoire de l’accélérateur", "가속기 최대 메모리"),
    ("kv_bytes_expected", "cache KV, taille attendue", "KV 캐시(예상)"),
    ("roofline_fraction", "part de la bande passante en lecture", "읽기 대역폭 대비 비율"),
    ("prefill_flop_fraction", "part de la puissance de calcul maximale", "최대 연산 속도 대비 비율"),
    ("kv_bytes_held", "cache KV, taille occupée", "KV 캐시(실제)"),
    ("pack_s", "quantification et réagencement", "양자화 및 재배치"),
    ("cpu_utilisation", "utilisation du CPU", "CPU 사용률"),
    ("gpu_utilisation", "utilisation du GPU", "GPU 사용률"),
    ("power_w", "puissance", "소비 전력"),
    ("energy_j_per_token", "énergie par token", "토큰당 에너지"),
    ("items_per_min", "éléments traités", "처리 항목"),
    ("chunks_per_min", "segments vectorisés", "임베딩한 청크"),
    ("embed_s", "vectorisation de la question", "질문 임베딩"),
    ("index_s", "construction de l’index", "색인 생성"),
    ("search_s", "recherche vectorielle", "벡터 검색"),
    ("assemble_s", "assemblage du contexte", "컨텍스트 구성"),
    ("answer_s", "génération de la réponse", "답변 생성"),
    ("e2e_simple_s", "question simple, durée totale", "단순 질문 전체 소요 시간"),
    ("e2e_complex_s", "question complexe, durée totale", "복합 질문 전체 소요 시간"),
    ("error_rate", "requêtes en échec", "실패한 요청"),
    ("oom_rate", "requêtes à court de mémoire", "메모리가 부족했던 요청"),
    ("mem_slope_bytes_per_request", "croissance de la mémoire par requête", "요청당 메모리 증가량"),
    ("top1_agreement", "même token le plus probable qu’en f32", "f32와 1순위 토큰 일치율"),
    ("kl_nats", "divergence KL par rapport à f32", "f32 대비 KL 발산"),
    ("perplexity", "perplexité", "퍼플렉시티"),
    ("perplexity_f32", "perplexité en f32", "f32 퍼플렉시티"),
    ("kernel_share", "temps passé dans les noyaux", "커널 실행 시간 비율"),
    ("kernel_overhead_s", "temps entre deux noyaux", "커널 사이의 시간"),
    ("kernels_per_step", "noyaux par pas", "스텝당 커널 수"),
    ("region_overhead_s", "région parallèle vide", "빈 병렬 구간"),
];

/// Units that differ between languages: as in the metric table, French, Korean.
#[rustfmt::skip]
const UNITS: &[(&str, &str, &str)] = &[
    ("MiB", "Mio", "MiB"),
    ("KiB", "Kio", "KiB"),
    ("items/min", "éléments/min", "개/분"),
    ("chunks/min", "segments/min", "청크/분"),
    ("GB/s", "Go/s", "GB/s"),
    ("GB", "Go", "GB"),
    ("GiB", "Gio", "GiB"),
    ("words/min", "mots/min", "단어/분"),
];

pub(super) fn metric(name: &str) -> Option<(&'static str, &'static str)> {
    find(METRICS, name)
}

pub(super) fn unit(unit: &str) -> Option<(&'static str, &'static str)> {
    find(UNITS, unit)
}

fn find(table: &'static [(&str, &str, &str)], name: &str) -> Option<(&'static str, &'static str)> {
    table.iter().find(|row| row.0 == name).map(|row| (row.1, row.2))
}
