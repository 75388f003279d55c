-- Records the progress of an encode. ARGV: id, epoch, percent. Returns OK or LOST.
local id, epoch, percent = ARGV[2], ARGV[3], ARGV[4]
if not redis.call('ZSCORE', leases, id .. ':' .. epoch) then return { 'LOST' } end
event(id, 'running', 'progress', percent)
redis.call('HSET', status(id), 'progress', percent)
return { 'OK' }
