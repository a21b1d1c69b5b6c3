//! Where the weights of a model go on a GPU, beside everything else that takes its memory.

use crate::host_memory::LockableMemory;

use super::{InferenceRequest, ModelSpec, PassPlan, PassRequest, Place, Places, ResidentBytes};

/// Where weights lie in training, what stays in memory with that, and the passes that fit beside it.
#[derive(Debug, Clone)]
pub struct Placement {
    /// The places of the blocks' weights.
    pub places: Places,
    /// What stays on the GPU from the beginning of the run to its end.
    pub resident: ResidentBytes,
    /// The passes that fit beside it, or the smallest ones where none do.
    pub passes: PassPlan,
}

impl ModelSpec {
    /// Leaves all weights on the GPU where a pass fits beside them within `budget` bytes, of which `resident` is
    /// taken with all weights there. Where none does, blocks are streamed: passes get the tokens that are asked for,
    /// as far as memory allows, because computing more tokens takes longer than copying a block, which hides the
    /// copy; what is left keeps blocks on the GPU. `on_host` is the memory of the host that may be page-locked:
    /// inputs of blocks of a sequence that has no room otherwise have them first, because weights can come from their
    /// files.
    pub fn place(
        &self,
        resident: ResidentBytes,
        request: &PassRequest,
        budget: u64,
        on_host: LockableMemory,
    ) -> Placement {
        self.place_with(resident, request, (budget, on_host), Places::fit)
    }

    /// As [`ModelSpec::place`], with the blocks that have no room divided among the GPUs of `ranks` ranks, each with this
    /// budget, and with this memory of the host that may be page-locked.
    pub fn place_sharded(
        &self,
        resident: ResidentBytes,
        request: &PassRequest,
        (budget, on_host): (u64, LockableMemory),
        ranks: usize,
    ) -> Placement {
        let fit = |bytes: &[u64], on_gpu, _| Places::fit_sharded(bytes, on_gpu, ranks);
        self.place_with(resident, request, (budget, on_host), fit)
    }

    /// Leaves all weights on the GPU where a pass fits beside them; or else they lie where `fit` says, which is told the
    /// bytes of blocks, and those that there is room for on the GPU and on the host.
    fn place_with(
        &self,
        resident: ResidentBytes,
        request: &PassRequest,
        (budget, on_host): (u64, LockableMemory),
        fit: impl Fn(&[u64], u64, u64) -> Places,
    ) -> Placement {
        let bytes = self.block_bytes();
        let at = |places: Places| {
            let resident = ResidentBytes { weights: self.gpu_bytes_at(&places), ..resident };
            let left = budget.saturating_sub(resident.total());
            let on_host = on_host.beside_weights(places.bytes_in(Place::PageLocked, &bytes));
            let passes = self.config().plan_on_gpu_and_host(request, left, on_host);
            Placement { places, resident, passes }
        };
        let whole = at(Places::resident(bytes.len()));
        if whole.resident.total() + whole.passes.least() <= budget {
            return whole;
        }
        let others = resident.total() - bytes.iter().sum::<u64>();
        let passes = whole.passes.least_of(request.tokens.max(request.longest));
        let on_host = on_host.beside_inputs(whole.passes.offloaded_bytes());
        at(fit(&bytes, budget.saturating_sub(others + passes), on_host))
    }

    /// Leaves as many blocks on the GPU as `budget` bytes have room for beside forwards of this kind; the others are
    /// streamed. `on_host` bytes of the host may be page-locked.
    pub fn place_for_inference(&self, request: &InferenceRequest, budget: u64, on_host: u64) -> Places {
        let bytes = self.block_bytes();
        let others = self.gpu_bytes() - bytes.iter().sum::<u64>() + self.scratch_on_gpu();
        let forwards = self.config().forward_on_gpu(request);
        Places::fit(&bytes, budget.saturating_sub(others + forwards), on_host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inference_streams_what_has_no_room_beside_its_forwards() {
        // Families with one block more than there are slots, or none.
        for directory in crate::model::tiny_models() {
            let spec = ModelSpec::read(&directory, None).unwrap();
            let (bytes, request) =
                (spec.block_bytes(), InferenceRequest { tokens: 100, cached: 500, adapters: 7 });
            let all = spec.gpu_bytes() + spec.scratch_on_gpu() + spec.config().forward_on_gpu(&request);
            let place = |budget| spec.place_for_inference(&request, budget, u64::MAX);
            assert_eq!(place(all), Places::resident(bytes.len()), "{}", directory.display());
            let least = Places::fit(&bytes, 0, u64::MAX);
            assert_eq!(place(all - 1).streamed() > 0, least.streamed() > 0, "{}", directory.display());
            assert_eq!(place(0), least);
        }
    }
}
