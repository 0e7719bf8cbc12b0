# Installs the newest released aios on Windows: downloads the archive, compares the SHA-256, tries the program and puts it
# into %LOCALAPPDATA%\Programs\aios, which it adds to the user's PATH. No administrator. Not tried on Windows so far.
#
#   $env:AIOS_INSTALL_DIR   another folder
#   $env:AIOS_RELEASES      where archives lie, such as a mirror; .../releases/download/v0.2.0 is one version
$ErrorActionPreference = 'Stop'
# Windows PowerShell draws its progress many times slower than it downloads.
$ProgressPreference = 'SilentlyContinue'

function Install-Aios {
    # The release workflow fills it in.
    $releases = if ($env:AIOS_RELEASES) { $env:AIOS_RELEASES } else { '@RELEASES@' }
    if ($releases.StartsWith('@')) {
        throw 'this file is a template: take install.ps1 of a release, or set AIOS_RELEASES'
    }
    $machine = if ($env:PROCESSOR_ARCHITEW6432) { $env:PROCESSOR_ARCHITEW6432 } else { $env:PROCESSOR_ARCHITECTURE }
    if ($machine -ne 'AMD64') {
        throw "there is no archive for Windows on $machine; build it from source: cargo install --path . in a clone"
    }
    $name = 'aios-x86_64-pc-windows-msvc'
    $folder = if ($env:AIOS_INSTALL_DIR) { $env:AIOS_INSTALL_DIR } else { Join-Path $env:LOCALAPPDATA 'Programs\aios' }
    $target = Join-Path $folder 'aios.exe'
    if (Test-Path -LiteralPath $target -PathType Container) {
        throw "$target is a folder: set AIOS_INSTALL_DIR to another place"
    }
    $new = Join-Path $folder ".aios.$([System.Guid]::NewGuid()).exe"
    $scratch = Join-Path ([System.IO.Path]::GetTempPath()) ([System.Guid]::NewGuid())
    New-Item -ItemType Directory -Path $scratch | Out-Null
    try {
        Write-Output "downloading $releases/$name.zip"
        $archive = Join-Path $scratch "$name.zip"
        Invoke-WebRequest -UseBasicParsing -Uri "$releases/$name.zip" -OutFile $archive
        Invoke-WebRequest -UseBasicParsing -Uri "$releases/$name.zip.sha256" -OutFile "$archive.sha256"
        $wanted = ((Get-Content -Raw "$archive.sha256") -split '\s+')[0]
        $found = (Get-FileHash -Algorithm SHA256 $archive).Hash
        # -ne does not tell upper from lower case.
        if ($found -ne $wanted) { throw "the archive's SHA-256 is $found, not ${wanted}: nothing was installed" }
        Expand-Archive -Path $archive -DestinationPath $scratch
        $program = Join-Path (Join-Path $scratch $name) 'aios.exe'
        $version = & $program --version
        if ($LASTEXITCODE -ne 0) { throw 'the program does not run here: nothing was installed' }
        New-Item -ItemType Directory -Force -Path $folder | Out-Null
        if (Test-Path -LiteralPath $target) { Write-Output "replacing $(Get-Version $target)" }
        # Renamed, under a name that nobody has, which could be a link.
        Copy-Item $program $new
        Move-Item -Force -LiteralPath $new -Destination $target
        Write-Output "installed ${version}: $folder\aios.exe"
        Add-ToPath $folder
    } finally {
        if (Test-Path -LiteralPath $new) { Remove-Item -Force -LiteralPath $new }
        Remove-Item -Recurse -Force $scratch
    }
}

function Get-Version($program) {
    # Whatever goes by that name: one that cannot be run throws.
    try { $said = @(& $program --version)[0] } catch { $said = '' }
    if ($said -match '^aios [0-9][ -~]*$') { $said } else { 'aios of an unknown version' }
}

function Add-ToPath($folder) {
    $path = [Environment]::GetEnvironmentVariable('Path', 'User')
    if (($path -split ';') -contains $folder) { return }
    [Environment]::SetEnvironmentVariable('Path', (@($folder, $path) | Where-Object { $_ }) -join ';', 'User')
    Write-Output "$folder is on your PATH now, in terminals that you open from here on"
}

# At the end, so that half a download does nothing.
Install-Aios
