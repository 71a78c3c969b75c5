# Sourced by the launchers: share_cores N gives each of N processes of this machine its part of the cores, unless
# OMP_NUM_THREADS is set. torchrun would give each of them one thread, and say so in a block of stars.
share_cores() {
  local threads=$(($(nproc) / $1))
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
}
