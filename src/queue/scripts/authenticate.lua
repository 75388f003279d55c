-- Finds a token by the hash of its secret, and counts a request. ARGV: hash.
-- Returns TOKEN with its record, LIMIT with the ms until another request may be sent, or UNKNOWN.
local t = redis.call('HMGET', P .. 'tokens:secret:' .. ARGV[2], 'name', 'record', 'rate')
if not t[1] then return { 'UNKNOWN' } end
local rate = tonumber(t[3])
if not rate then return { 'TOKEN', t[2] } end
-- The generic cell rate algorithm: the time at which the requests so far will have been spread evenly. As many as
-- belong to a minute may come at once.
local now, spread = clock(), of_token('rate', t[1])
local interval = 60000 / rate
local until_spread = math.max(tonumber(redis.call('GET', spread) or now), now) + interval
local ahead = until_spread - now - 60000
if ahead > 0.5 then return { 'LIMIT', math.ceil(ahead) } end
redis.call('SET', spread, string.format('%.3f', until_spread), 'PX', 120000)
return { 'TOKEN', t[2] }
