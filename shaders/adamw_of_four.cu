// The step of adamw_step.cuh for four parameters in one launch.

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_of_four(const Element *gradient_a, Element *parameter_a, Element *mean_a, Element *square_a,
              const Element *gradient_b, Element *parameter_b, Element *mean_b, Element *square_b,
              const Element *gradient_c, Element *parameter_c, Element *mean_c, Element *square_c,
              const Element *gradient_d, Element *parameter_d, Element *mean_d, Element *square_d,
              // Elements of each, and what is kept of each; then the other numbers of adamw.cu in their order.
              INFO) {
    const unsigned stride = gridDim.x * THREADS, own = blockIdx.x * THREADS + threadIdx.x;
    unsigned first = 0;
    for (unsigned tensor = 0; tensor < 4; ++tensor) {
        const unsigned pieces = TOLD(tensor) / LANES;
        const Element *gradient = tensor == 0 ? gradient_a : tensor == 1 ? gradient_b : tensor == 2 ? gradient_c : gradient_d;
        Element *parameter = tensor == 0 ? parameter_a : tensor == 1 ? parameter_b : tensor == 2 ? parameter_c : parameter_d;
        Element *mean = tensor == 0 ? mean_a : tensor == 1 ? mean_b : tensor == 2 ? mean_c : mean_d;
        Element *square = tensor == 0 ? square_a : tensor == 1 ? square_b : tensor == 2 ? square_c : square_d;
        const unsigned from = (own + stride - first) % stride;
        update(gradient, parameter, mean, square, from, pieces, TOLD_FLOAT(8), TOLD_FLOAT(9), TOLD_FLOAT(10), TOLD_FLOAT(4 + tensor),
               TOLD_FLOAT(11), TOLD_FLOAT(12), TOLD_FLOAT(13));
        // Whose turn a piece is goes on from one tensor to the next: small ones are taken by different blocks.
        first = (first + pieces) % stride;
    }
}
