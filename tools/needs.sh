# Sourced by tools/demo and tools/test: installs what is missing, and says so. Debian's apt; elsewhere it says what to install.

say() { printf '\n== %s\n' "$*"; }
die() { printf '\n!! %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else return 127
    fi
}

apt_updated=no

# apt_install PACKAGE...: answers whether they are there now.
apt_install() {
    command -v apt-get >/dev/null || { echo "this is no Debian; please install: $*" >&2; return 1; }
    say "installing $* (apt-get)"
    local log status=0
    log=$(mktemp)
    if [ "$apt_updated" = no ]; then
        as_root apt-get update -qq >"$log" 2>&1 || true
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        </dev/null >>"$log" 2>&1 || { status=$?; cat "$log" >&2; }
    rm -f "$log"
    return "$status"
}

links_c() { printf 'int main(void) { return 0; }\n' | cc -x c - -o /dev/null 2>/dev/null; }

# Rust and a linker, without which nothing is built.
need_rust() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH="$HOME/.cargo/bin:$PATH"; fi
    command -v cargo >/dev/null || die "no cargo: install Rust from https://rustup.rs and run this again"
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d' ' -f2)
    [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -1)" = "$wanted" ] ||
        die "Rust $found is too old, $wanted is needed: rustup update stable"
    links_c || apt_install gcc libc6-dev || die "no C linker: install gcc and libc6-dev"
    links_c || die "cc does not link a C program"
}

# What a QEMU guest needs: the machine, what fills its first file system, and the programs that tests run inside.
need_guest() {
    local missing=() entry
    for entry in qemu-system-x86_64=qemu-system-x86 busybox=busybox-static cpio=cpio xz=xz-utils rdma=iproute2 \
        ibv_devinfo=ibverbs-utils ib_write_bw=perftest dmsetup=dmsetup mkfs.ext4=e2fsprogs; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${entry%%=*}" >/dev/null || missing+=("${entry#*=}")
    done
    [ -d /etc/libibverbs.d ] || missing+=(ibverbs-providers)
    ldconfig -p 2>/dev/null | grep -q librdmacm || [ -e /usr/lib/x86_64-linux-gnu/librdmacm.so.1 ] || missing+=(librdmacm1)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
}

# Whether anybody listens on a TCP port of this machine's loopback.
port_taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
