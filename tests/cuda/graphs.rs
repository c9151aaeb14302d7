//! Selection, refinement and fusion as one launch of a graph that was recorded once: the labels of the stages one by one.

use sparse_refine::cuda::Precision;
use sparse_refine::pipeline::Backend;
use sparse_refine::types::{PixelFormat, Stage};

use crate::cases::Case;
use crate::support::recording::scene;
use crate::{cuda, different_labels, frame, labelled};

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn a_recorded_slot_follows_image_threshold_and_budget() {
    for case in Case::all() {
        // The launches are written down alike; one network suffices for the tensor cores.
        let half = case.name == "two blocks, BGR";
        let precision = if half { Precision::Half } else { Precision::Single };
        let (plain, graphs) = (cuda(&case, precision), cuda(&case, precision).with_graphs(true));
        let size = case.sizes[0];
        let (mut one_by_one, mut recorded) = (plain.slot(size).unwrap(), graphs.slot(size).unwrap());
        let all = size.pixels() as u32;
        let mut refined = std::collections::BTreeSet::new();
        for (turn, budget) in [all, all / 3, 7, 0].into_iter().enumerate() {
            let alpha = [0.3, 0.5][turn % 2];
            plain.set_alpha(alpha);
            graphs.set_alpha(alpha);
            let rgb = scene(size, turn as u32 * 5);
            let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &rgb);
            let want = labelled(&plain, &mut one_by_one, &frame, case.plan.mode, budget);
            let got = labelled(&graphs, &mut recorded, &frame, case.plan.mode, budget);
            let name = format!("{} {} frame {turn}", case.name, precision.name());
            // The first frame warms the slot up.
            assert_eq!((one_by_one.replayed(), recorded.replayed()), (false, turn > 0), "{name}");
            assert_eq!(different_labels(&name, &want, &got), 0, "{name}: labels");
            let times = got.0.stages;
            assert!(times.get(Stage::Select) > 0.0, "{name}: {times:?}");
            assert_eq!(times.get(Stage::Refine) > 0.0, want.0.stages.get(Stage::Refine) > 0.0, "{name}");
            refined.insert(got.0.pixels_refined);
        }
        assert!(case.plan.refiner.is_none() || refined.len() > 2, "{}: {refined:?}", case.name);
    }
}
