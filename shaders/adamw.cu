// The step of adamw_step.cuh for a parameter.

extern "C" __global__ void __launch_bounds__(THREADS)
adamw(const Element *__restrict__ gradient, Element *__restrict__ parameter, Element *__restrict__ mean,
      Element *__restrict__ square,
      // Elements, then in f32 the gradient's factor, decay of both moments, what is kept of the parameter, rate, factor of the
      // root, eps.
      INFO) {
    update(gradient, parameter, mean, square, blockIdx.x * THREADS + threadIdx.x, TOLD(0) / LANES, TOLD_FLOAT(1), TOLD_FLOAT(2),
           TOLD_FLOAT(3), TOLD_FLOAT(4), TOLD_FLOAT(5), TOLD_FLOAT(6), TOLD_FLOAT(7));
}
