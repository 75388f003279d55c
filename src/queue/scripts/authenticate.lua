-- Finds a token by the hash of its secret, and counts a request. ARGV: hash.
-- Returns TOKEN with its record, LIMIT with the ms until another request may be sent, or UNKNOWN.
local hash = ARGV[2]
local t = redis.call('HMGET', P .. 'tokens:secret:' .. hash, 'name', 'record', 'rate')
if not t[1] then return { 'UNKNOWN' } end
local rate = tonumber(t[3])
if not rate then return { 'TOKEN', t[2] } end
-- The generic cell rate algorithm. The theoretical arrival time (TAT) is when the next request would come if all so far
-- had come evenly. It may be ahead of the clock by a minute, so that as many requests as belong to a minute may come at once.
local now, key, interval = clock(), of_token('rate', t[1]), 60000 / rate
local tat = math.max(tonumber(redis.call('GET', key) or now), now)
-- It is farther ahead only if the clock was set back.
if tat > now + 60001 then tat = now + 60000 - interval end
local wait = tat + interval - now - 60000
if wait > 0.5 then return { 'LIMIT', math.ceil(wait) } end
-- A Redis without memory must not keep anybody from reading and cancelling jobs.
redis.pcall('SET', key, string.format('%.3f', tat + interval), 'PX', 120000)
return { 'TOKEN', t[2] }
