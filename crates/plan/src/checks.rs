//! Everything that training may want of a device, tried on it.

use aios_base::error::Result;
use aios_base::storage::Storage;
use aios_device::{Adapter, DeviceCheck};
use aios_tensor::{AttentionClass, Check, Precision};

/// The default model's.
const HEAD_DIM: usize = 64;

/// Packed documents, and two heads of queries to each of keys.
const DOCUMENTS: AttentionClass = AttentionClass {
    head_dim: HEAD_DIM,
    group: 2,
    ranges: true,
};

/// What a frozen model may be held in.
const HELD: [Storage; 11] = [
    Storage::F32,
    Storage::F16,
    Storage::Bf16,
    Storage::Nf4,
    Storage::Q8_0,
    Storage::Q4_0,
    Storage::Q4_1,
    Storage::Q5_0,
    Storage::Q4K,
    Storage::Q5K,
    Storage::Q6K,
];

/// What of a device's is to be tried, and what each is called.
pub fn checks(adapter: &Adapter) -> Vec<(String, Check)> {
    let formats = [Precision::F32, Precision::F16, Precision::Bf16];
    let formats = formats.into_iter().filter(|f| adapter.holds(f.as_str()));
    let of_format = |format: Precision| {
        let name = format.as_str();
        [
            (format!("linear layers in {name}"), Check::Linear(format)),
            (
                format!("{} in {name}", adapter.attention),
                Check::Attention(format, AttentionClass::plain(HEAD_DIM)),
            ),
            (
                format!("{} of documents in {name}", adapter.attention),
                Check::Attention(format, DOCUMENTS),
            ),
        ]
    };
    // What is decoded into half precision is another kernel on a GPU; a CPU decodes into f32.
    let gpu = adapter.kind.is_gpu();
    let computed = formats
        .clone()
        .filter(|format| gpu || *format == Precision::F32);
    let adapters = computed.flat_map(|format| {
        let held = HELD
            .into_iter()
            .filter(move |held| *held != Storage::F32 || format == Precision::F32);
        held.map(move |storage| {
            let (held, into) = (storage.as_str(), format.as_str());
            let name = format!("adapters of weights in {held}, decoded into {into}");
            (name, Check::Adapter(storage, format))
        })
    });
    let last = ("adamw8bit".to_string(), Check::AdamW8bit);
    let formats = formats.flat_map(of_format);
    formats.chain(adapters).chain([last]).collect()
}

/// What came of a check.
pub fn outcome(adapter: &Adapter, work: String, outcome: Result<()>) -> DeviceCheck {
    DeviceCheck {
        device: adapter.flag(),
        work,
        problem: outcome.err().map(|error| error.to_string()),
    }
}
