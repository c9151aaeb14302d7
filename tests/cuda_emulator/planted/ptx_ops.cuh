// The planted bugs use the product's operations.
#include "../../../src/cuda/kernels/ptx_ops.cuh"
