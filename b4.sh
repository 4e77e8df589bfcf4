for i in 1 2 3; do timeout 400 /tmp/benv/bin/python b3.py 'show("echo","aiohttp","50 x 8 in flight",20000,9)'; done
