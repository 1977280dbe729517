#!/bin/busybox sh
# The first process of the virtual machine: finds the disk and goes on there.
/bin/busybox mkdir -p /bin /dev /proc /disk
/bin/busybox --install -s /bin
echo "vm: $(uname -sr 2>/dev/null) has booted"
mount -t devtmpfs dev /dev
for module in /modules/*.ko; do
    insmod "$module" || echo "vm: cannot load $module"
done
tries=0
until [ -b /dev/vda ] || [ $tries = 300 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
mount -t ext4 /dev/vda /disk || poweroff -f
mount -o move /dev /disk/dev
exec switch_root /disk /sbin/init
