//! The gradient of an embedding look-up: one kernel, in which each row of the table has one writer.

use crate::gpu::elements::{count, elements, launch, workgroups};
use crate::gpu::fused::{Gpu, Matrix, float, queue};
use crate::gpu::kernel::{KernelRuntime, writable};
use crate::gpu::row_texts::EMBEDDING_GRADIENT;
use burn::tensor::{Int, Tensor, TensorData};
use burn_cubecl::element::BoolElement;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;

/// Look-ups by id.
pub(super) struct Lookups {
    /// The ids that occur, where in the last part the look-ups of each begin and where those of the last end, then the numbers of
    /// the look-ups, each id's in rising order.
    pub words: Vec<i32>,
    /// How many ids occur.
    pub distinct: usize,
}

impl Lookups {
    /// # Panics
    /// If an id is not one of so many entries: the kernel writes where it points to.
    pub fn of(ids: &[i32], entries: usize) -> Self {
        let inside = |id: &i32| usize::try_from(*id).is_ok_and(|id| id < entries);
        assert!(ids.iter().all(inside), "an id beyond the table");
        let mut order: Vec<i32> = (0..count(ids.len()) as i32).collect();
        // Stable: look-ups of an id stay in order.
        order.sort_by_key(|i| ids[*i as usize]);
        let (mut occurring, mut starts) = (Vec::new(), Vec::new());
        for (place, i) in order.iter().enumerate() {
            let id = ids[*i as usize];
            if occurring.last() != Some(&id) {
                occurring.push(id);
                starts.push(place as i32);
            }
        }
        starts.push(order.len() as i32);
        let distinct = occurring.len();
        Self {
            words: [occurring, starts, order].concat(),
            distinct,
        }
    }
}

/// [`crate::Ops::embedding_gradient`] of rows in f32.
///
/// # Panics
/// If an id is not in the table.
pub(super) fn gradient<R, BT>(
    sum: Matrix<R, BT>,
    ids: &[i32],
    rows: Matrix<R, BT>,
    scale: f32,
) -> Matrix<R, BT>
where
    R: KernelRuntime,
    BT: BoolElement,
{
    let [entries, width] = sum.dims();
    let elements = elements(sum.dtype(), width);
    assert_eq!(rows.dims(), [ids.len(), width], "a row for each id");
    let Lookups { words, distinct } = Lookups::of(ids, entries);
    let words = TensorData::new(words, [2 * distinct + 1 + ids.len()]);
    let words = Tensor::<Gpu<R, BT>, 1, Int>::from_data(words, &rows.device());
    let kernel = EMBEDDING_GRADIENT.kernel(elements);
    let told = [count(distinct), count(width), scale.to_bits(), 0];
    count(elements.pieces(entries * width));
    count(elements.pieces(ids.len() * width));
    let outline = [(sum.shape(), sum.dtype())];
    let [sum, rows] = [sum, rows].map(|t| t.into_primitive().tensor());
    let inputs = [sum, rows, words.into_primitive()];
    let run = move |[sum, rows, ids]: [CubeTensor<R>; 3]| {
        let sum = writable(sum);
        let [rows, ids] = [rows, ids].map(into_contiguous);
        let work = distinct * workgroups(elements.pieces(width));
        let buffers = [&rows.handle, &ids.handle, &sum.handle];
        launch(&kernel, &rows, work, &buffers, &told);
        [sum]
    };
    let [sum] = queue::<R, BT, 3, 1>("embedding_gradient", inputs, outline, run);
    float(sum)
}
