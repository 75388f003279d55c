-- The input of a job stands in storage. ARGV: id. Says QUEUED, or the state of a job that did not wait
-- for it, or UNKNOWN.
local id = ARGV[2]
local s = redis.call('HMGET', status(id), 'state', 'boost')
if not s[1] then return { 'UNKNOWN' } end
if s[1] ~= 'uploading' then return { 'ALREADY', s[1] } end
local ms = event(id, 'queued')
local rank = ms - tonumber(s[2])
redis.call('HSET', status(id), 'state', 'queued', 'uploaded', ms, 'queued', ms, 'rank', rank)
redis.call('ZREM', uploading, id)
redis.call('ZADD', pending, rank, id)
ring(id)
return { 'QUEUED' }
