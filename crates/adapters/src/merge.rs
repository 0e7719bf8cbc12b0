//! An adapter added to the weights that it is for.

use crate::layout::Module;

/// An adapter's numbers of one module, in f32, row after row.
#[derive(Clone, Debug)]
pub struct Change {
    /// `[rank, inputs]`
    pub a: Vec<f32>,
    /// `[outputs, rank]`
    pub b: Vec<f32>,
    /// `[outputs]`, of DoRA.
    pub magnitude: Option<Vec<f32>>,
}

/// Adds a change to a weight, `[outputs, inputs]` or `transposed`, in f32: `W + scale B A`, with magnitudes each output's row
/// made as long as its magnitude says.
///
/// # Panics
/// If a length is not that of the module.
pub fn merge(weight: &mut [f32], module: &Module, transposed: bool, change: &Change) {
    let Module {
        rank,
        inputs,
        outputs,
        ..
    } = *module;
    assert_eq!(weight.len(), inputs * outputs);
    assert_eq!(change.a.len(), rank * inputs);
    assert_eq!(change.b.len(), outputs * rank);
    let scale = module.scale as f32;
    let mut row = vec![0.0; inputs];
    for output in 0..outputs {
        row.fill(0.0);
        let b = &change.b[output * rank..(output + 1) * rank];
        for (b, a) in b.iter().zip(change.a.chunks(inputs)) {
            row.iter_mut().zip(a).for_each(|(row, a)| *row += b * a);
        }
        let place = |input: usize| match transposed {
            true => input * outputs + output,
            false => output * inputs + input,
        };
        for (input, row) in row.iter_mut().enumerate() {
            *row = weight[place(input)] + scale * *row;
        }
        if let Some(magnitude) = &change.magnitude {
            let square: f64 = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
            let factor = (f64::from(magnitude[output]) / square.sqrt()) as f32;
            row.iter_mut().for_each(|v| *v *= factor);
        }
        for (input, row) in row.iter().enumerate() {
            weight[place(input)] = *row;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module() -> Module {
        Module {
            name: "m".into(),
            rank: 1,
            scale: 2.0,
            dora: false,
            dropout: 0.0,
            inputs: 2,
            outputs: 3,
        }
    }

    fn change(magnitude: Option<Vec<f32>>) -> Change {
        Change {
            a: vec![1.0, 10.0],
            b: vec![1.0, 2.0, 3.0],
            magnitude,
        }
    }

    #[test]
    fn the_change_is_added_either_way_round() {
        let mut weight = vec![0.5; 6];
        merge(&mut weight, &module(), false, &change(None));
        assert_eq!(weight, [2.5, 20.5, 4.5, 40.5, 6.5, 60.5]);
        let mut weight = vec![0.5; 6];
        merge(&mut weight, &module(), true, &change(None));
        assert_eq!(weight, [2.5, 4.5, 6.5, 20.5, 40.5, 60.5]);
    }

    #[test]
    fn rows_are_as_long_as_magnitudes_say() {
        let mut weight = vec![0.0; 6];
        let magnitude = Some(vec![1.0, 5.0, 2.0]);
        merge(&mut weight, &module(), false, &change(magnitude));
        for (row, want) in weight.chunks(2).zip([1.0_f32, 5.0, 2.0]) {
            assert!((row[0].hypot(row[1]) - want).abs() < 1e-5);
        }
    }
}
