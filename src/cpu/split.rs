//! A slice cut into parts of different lengths, which threads take side by side.

/// How to cut a slice: `starts[i]` times `width` is where part `i` starts, less where the first does; one more entry
/// says where the last one ends.
#[derive(Clone, Copy)]
pub(crate) struct Split<'a> {
    pub(crate) starts: &'a [u32],
    pub(crate) width: usize,
    /// Parts that are handed out together.
    pub(crate) smallest: usize,
}

/// Hands runs of parts of `data` to `work`, side by side: the index of the first part, the starts of the run, its data.
pub(crate) fn split<T: Send>(
    split: Split<'_>,
    data: &mut [T],
    work: &(impl Fn(usize, &[u32], &mut [T]) + Sync),
) {
    halve(split, 0, data, work);
}

/// Hands every part to `work`, side by side: its index and its data.
pub(crate) fn each_part<T: Send>(cut: Split<'_>, data: &mut [T], work: &(impl Fn(usize, &mut [T]) + Sync)) {
    split(cut, data, &|first, starts, mut rest| {
        for (part, bounds) in (first..).zip(starts.windows(2)) {
            let (own, after) = rest.split_at_mut((bounds[1] - bounds[0]) as usize * cut.width);
            work(part, own);
            rest = after;
        }
    });
}

fn halve<T: Send>(
    cut: Split<'_>,
    first: usize,
    data: &mut [T],
    work: &(impl Fn(usize, &[u32], &mut [T]) + Sync),
) {
    let Split { starts, width, smallest } = cut;
    let parts = starts.len() - 1;
    if parts <= smallest.max(1) {
        if parts > 0 {
            work(first, starts, data);
        }
        return;
    }
    let middle = parts / 2;
    let (low, high) = data.split_at_mut((starts[middle] - starts[0]) as usize * width);
    rayon::join(
        || halve(Split { starts: &starts[..=middle], ..cut }, first, low, work),
        || halve(Split { starts: &starts[middle..], ..cut }, first + middle, high, work),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_handed_out_once_with_its_data() {
        let starts = [0, 3, 3, 10, 11, 40];
        for smallest in [0, 1, 2, 9] {
            let mut data = vec![0; 80];
            split(Split { starts: &starts, width: 2, smallest }, &mut data, &|first, run, data| {
                assert_eq!(data.len(), (run[run.len() - 1] - run[0]) as usize * 2);
                assert_eq!(run[0], starts[first]);
                data.iter_mut().for_each(|value| *value += 1);
            });
            assert!(data.iter().all(|&count| count == 1));
            each_part(Split { starts: &starts, width: 2, smallest }, &mut data, &|part, data| {
                assert_eq!(data.len(), (starts[part + 1] - starts[part]) as usize * 2);
                data.fill(part);
            });
            let expected = [0, 2, 3, 4]
                .into_iter()
                .flat_map(|part| std::iter::repeat_n(part, (starts[part + 1] - starts[part]) as usize * 2));
            assert!(data.iter().copied().eq(expected));
        }
    }
}
