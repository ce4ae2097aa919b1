#!/usr/bin/env bash
# Boots Debian's kernels under qemu, in software emulation (KVM inside of a virtual machine is not to be relied on), over
# Debian trixie with this checkout built in it, and runs there: the drivers' tests of the crate, the probe for io_uring, and
# the suites below over io_uring. Needs root. Prints one table; exits with 1 if a kernel failed anything.
#
#   KERNELS          the releases of Debian whose kernels are booted (bookworm trixie: 6.1 and 6.12)
#   PLATFORMS_DIR    where the folder of trixie is (_build/platforms), as in test_platforms.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

kernels=${KERNELS:-bookworm trixie}
root=${PLATFORMS_DIR:-$PWD/_build/platforms}
suites=(buffers closing ends descriptors)

# shellcheck source=scripts/debian_folders.sh
. scripts/debian_folders.sh

for pair in qemu-system-x86_64:qemu-system-x86 mke2fs:e2fsprogs depmod:kmod busybox:busybox-static cpio:cpio xz:xz-utils; do
    command -v "${pair%%:*}" >/dev/null ||
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${pair#*:}"
done

folder=$root/trixie
work=$root/kernels
mkdir -p "$work"

# The newest cloud kernel of a release, unpacked into a folder; prints its version.
fetch_kernel() { # release
    local to=$work/$1
    if [ ! -e "$to/version" ]; then
        rm -rf "$to"
        mkdir -p "$to" "$folder/kernels/$1/partial"
        echo "deb http://deb.debian.org/debian $1 main" >"$folder/kernels/$1.list"
        local options=(-o Acquire::Check-Valid-Until=false -o "Dir::Etc::sourcelist=/kernels/$1.list" -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=/kernels/$1")
        {
            inside "$folder" apt-get "${options[@]}" update
            local package
            package=$(inside "$folder" apt-cache "${options[@]}" depends linux-image-cloud-amd64 | sed -nE 's/ *Depends: (linux-image-[0-9].*)/\1/p')
            inside "$folder" sh -c "cd /kernels && apt-get ${options[*]} download '$package'"
            dpkg-deb -x "$folder"/kernels/"$package"_*.deb "$to"
            rm "$folder"/kernels/"$package"_*.deb
        } >"$to.log" 2>&1
        find "$to" -name '*.ko.xz' -exec xz -d {} +
        basename "$to"/boot/vmlinuz-* | sed 's/^vmlinuz-//' >"$to/version"
    fi
    cat "$to/version"
}

# What finds the disk and changes over to it.
make_initramfs() { # kernel's folder, version
    local tree=$1/initramfs modules=$1
    [ -e "$1/lib" ] || modules=$1/usr
    rm -rf "$tree"
    mkdir -p "$tree"/{bin,dev,proc,sys,disk,modules}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    depmod -b "$modules" "$2"
    local nth=0 file
    while read -r file; do
        nth=$((nth + 1))
        cp "$file" "$tree/modules/$(printf %03d "$nth")-$(basename "$file")"
    done < <(for module in virtio_pci virtio_blk ext4; do
        modprobe -d "$modules" -S "$2" --show-depends "$module" | sed -nE 's/^insmod ([^ ]+).*/\1/p'
    done | awk '!seen[$0]++')
    cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in /modules/*; do /bin/busybox insmod "$module"; done
until [ -b /dev/vda ]; do :; done
/bin/busybox mount -t ext4 /dev/vda /disk
exec /bin/busybox switch_root /disk /bin/bash /py_reactor/scripts/kernel_guest.sh
INIT
    chmod +x "$tree/init"
    (cd "$tree" && find . | cpio --quiet -o -H newc) >"$1/initramfs.cpio"
}

echo "py_reactor: building in Debian trixie"
prepare trixie "$folder"
{
    inside "$folder" make -C /py_reactor compile
    inside "$folder" sh -c 'cd /py_reactor && cargo test --locked --lib --no-run &&
        ln -sf "$(ls -t target/debug/deps/py_reactor_nif-* | grep -v "\.d$" | head -1)" crate_tests && rebar3 as test compile'
} >"$work/build.log" 2>&1 </dev/null || { tail -30 "$work/build.log" >&2; exit 1; }
versions=()
for kernel in $kernels; do
    versions+=("$(fetch_kernel "$kernel")")
done
unmount_all

# The disk: what the folder has, without what only the build needed.
tree=$work/tree
echo "py_reactor: making the disk"
rm -rf "$tree"
mkdir -p "$tree/py_reactor/target/debug/deps" "$tree"/{dev,proc,sys,tmp,run,root}
tar -C "$folder" --exclude=./usr/lib/gcc --exclude=./usr/share/doc -cf - ./bin ./lib ./lib64 ./sbin ./etc ./usr | tar -C "$tree" -xf -
tar -C "$folder/py_reactor" --exclude=./target -cf - . | tar -C "$tree/py_reactor" -xf -
cp "$folder/py_reactor/$(readlink "$folder/py_reactor/crate_tests")" "$tree/py_reactor/target/debug/deps/"
echo "${suites[*]}" >"$tree/py_reactor/kernel_suites"
rm -f "$work/disk"
mke2fs -q -t ext4 -d "$tree" "$work/disk" "$(($(du -sm "$tree" | cut -f1) * 5 / 4 + 512))M"
rm -rf "$tree"

status=0
table=()
nth=0
for kernel in $kernels; do
    version=${versions[$nth]}
    nth=$((nth + 1))
    began=$SECONDS
    make_initramfs "$work/$kernel" "$version"
    log=$work/$kernel.guest.log
    echo "py_reactor: booting $version; the log is $log"
    timeout 3600 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4G -display none -no-reboot \
        -kernel "$work/$kernel/boot/vmlinuz-$version" -initrd "$work/$kernel/initramfs.cpio" \
        -append "console=ttyS0 panic=-1 quiet" -serial "file:$log" -monitor none -nic none \
        -drive "file=$work/disk,format=raw,if=virtio,snapshot=on" </dev/null || true
    result=failed
    tr -d '\r' <"$log" | grep -q '^guest: passed$' && result=passed || status=1
    told() { tr -d '\r' <"$log" | sed -nE "s/^guest: $1: //p" | tail -1; }
    table+=("$(told kernel)"$'\t'"$(told backend)"$'\t'"$(told crate)"$'\t'"$(told suites)"$'\t'"$result"$'\t'"$((SECONDS - began)) s")
    [ "$result" = passed ] || tail -40 "$log" >&2
done

{
    printf 'kernel\tbackend chosen\tcrate: drivers\tsuites (%s)\tresult\ttime\n' "${suites[*]}"
    printf '%s\n' "${table[@]}"
} | column -t -s $'\t'
exit "$status"
