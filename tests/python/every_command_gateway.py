"""Every command of the client `etcd3gw` (JSON gateway) against one member: host and port are the arguments."""

import sys
import threading

import etcd3gw


def keys(client):
    assert client.get('none') == []
    assert client.put('k/a', '1') is True
    assert client.put('k/b', b'\x00\xff') is True
    assert client.get('k/b') == [b'\x00\xff']
    (value, metadata), = client.get('k/a', metadata=True)
    assert value == b'1' and metadata['version'] == '1', metadata
    assert client.create('k/a', 'again') is False
    assert client.create('k/c', 'new') is True
    found = client.get_prefix('k/', sort_order='descend', sort_target='key')
    assert [metadata['key'] for _, metadata in found] == [b'k/c', b'k/b', b'k/a'], found
    assert len(client.get_all()) >= 3
    assert client.replace('k/a', '1', '2') is True
    assert client.replace('k/a', '1', '3') is False
    assert client.delete('k/a') is True
    assert client.delete('k/a') is False
    assert client.delete_prefix('k/') is True


def transactions(client):
    key, value = 'Z2F0ZXdheS90', 'dmFsdWU='
    answer = client.transaction({
        'compare': [{'key': key, 'result': 'EQUAL', 'target': 'CREATE', 'create_revision': 0}],
        'success': [{'request_put': {'key': key, 'value': value}}],
        'failure': [{'request_range': {'key': key}}],
    })
    assert answer['succeeded'] is True and 'response_put' in answer['responses'][0], answer
    assert client.get('gateway/t') == [b'value']
    assert client.delete('gateway/t') is True


def leases(client):
    lease = client.lease(60)
    assert 0 < lease.ttl() <= 60
    client.put('l/a', '1', lease=lease)
    assert lease.keys() == [b'l/a']
    assert lease.refresh() == 60
    assert lease.revoke() is True
    assert client.get('l/a') == []


def locks(client):
    with client.lock('lock', ttl=10) as lock:
        assert lock.is_acquired()
        other = client.lock('lock', ttl=10)
        assert other.acquire() is False
        assert lock.refresh() == 10
    assert other.acquire() is True
    assert other.release() is True


def watches(client):
    events, cancel = client.watch_prefix('w/')
    client.put('w/1', 'a')
    client.delete('w/1')
    first, second = next(events), next(events)
    assert (first['kv']['key'], first['kv']['value']) == (b'w/1', b'a'), first
    assert second['type'] == 'DELETE', second
    cancel()
    later = threading.Timer(0.2, lambda: client.put('w/2', 'b'))
    later.start()
    assert client.watch_once('w/2', timeout=20)['kv']['value'] == b'b'


def maintenance(client):
    status = client.status()
    assert status['version'].startswith('3.') and int(status['dbSize']) >= 0, status
    members = client.members()
    assert all(member['peerURLs'] and member['clientURLs'] for member in members), members


def main(host, port):
    client = etcd3gw.client(host=host, port=port, timeout=30)
    for part in (keys, transactions, leases, locks, watches, maintenance):
        part(client)
        print(part.__name__)


main(sys.argv[1], int(sys.argv[2]))
